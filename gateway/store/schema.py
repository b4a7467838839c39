"""The tables, as the newest migration leaves them. A test holds the two together."""

from datetime import UTC, datetime
from typing import Final

from sqlalchemy import JSON, Column, DateTime, Dialect, ForeignKey, Index, Integer, MetaData, String, Table, Text
from sqlalchemy.types import TypeDecorator

NAMING: Final = {"pk": "pk_%(table_name)s", "ix": "ix_%(column_0_label)s", "fk": "fk_%(table_name)s_%(column_0_name)s"}
"""Constraints have names of ours, so that a later migration can find them in every database."""

metadata = MetaData(naming_convention=NAMING)


class UtcDateTime(TypeDecorator[datetime]):
    """A moment, always with its time zone, also from databases that forget it (SQLite)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - SQLAlchemy's
        """Return `value` in UTC."""
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - SQLAlchemy's
        """Return `value` with UTC written on it."""
        return value.replace(tzinfo=UTC) if value and value.tzinfo is None else value


BotName = String(64).with_variant(String(64, collation="C"), "postgresql")
"""Names sort by code point in every database; PostgreSQL would ask the locale of the day."""

bots = Table(
    "bots",
    metadata,
    Column("bot_id", BotName, primary_key=True),
    Column("knowledge", Text, nullable=False),
    Column("instruction", Text, nullable=True),
    Column("parameters", JSON, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("name", Text, nullable=False, server_default=""),
    Column("limits", JSON, nullable=False, server_default="{}"),
)

sessions = Table(
    "sessions",
    metadata,
    Column("session_id", String(36), primary_key=True),
    Column("bot_id", BotName, ForeignKey(bots.c.bot_id, ondelete="CASCADE"), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("exchanges", Integer, nullable=False),
    Index("ix_sessions_bot_id_session_id", "bot_id", "session_id"),
    Index("ix_sessions_updated_at", "updated_at"),
)

exchanges = Table(
    "exchanges",
    metadata,
    Column("session_id", String(36), ForeignKey(sessions.c.session_id, ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("message", Text, nullable=False),
    Column("response", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)

keys = Table(
    "keys",
    metadata,
    Column("key_id", String(20).with_variant(String(20, collation="C"), "postgresql"), primary_key=True),
    Column("name", Text, nullable=False),
    Column("scope", String(16), nullable=False),
    Column("bots", JSON(none_as_null=True), nullable=True),
    Column("limits", JSON, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=True),
    Column("last_used_at", UtcDateTime, nullable=True),
    Column("retires_at", UtcDateTime, nullable=True),
)

model_routes = Table(
    "model_routes",
    metadata,
    Column("revision", Integer, primary_key=True, autoincrement=False),
    Column("deployments", JSON, nullable=False),
    Column("earlier", JSON, nullable=False),
    Column("changed_at", UtcDateTime, nullable=False),
)
