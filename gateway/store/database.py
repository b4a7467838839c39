"""Opening a database and bringing its schema up to date."""

import contextlib
import sqlite3
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import event, make_url
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from gateway.errors import Misconfigured, StoreUnavailable

BUSY_TIMEOUT_MS = 10_000
"""How long a SQLite connection waits for another writer before it gives up."""


MIGRATION_LOCK = 0x60DE1
"""The key of PostgreSQL's advisory lock round the migrations."""


def open_engine(url: str, *, busy_timeout_ms: int = BUSY_TIMEOUT_MS) -> AsyncEngine:
    """Return an engine for `url`; it is the caller's to dispose. SQLite's file and its folder are made.

    Raises Misconfigured when `url` is no database address or its driver is not installed, StoreUnavailable
    when SQLite cannot open the file.
    """
    try:
        parsed = make_url(url)
        # Statements fail with their parameters in the message by default, and those are users' text.
        # The ping finds connections that a restart of the database has cut, before a request does.
        engine = create_async_engine(parsed, hide_parameters=True, pool_pre_ping=parsed.get_backend_name() != "sqlite")
        if parsed.get_backend_name() == "sqlite":
            event.listen(engine.sync_engine, "connect", partial(_prepare_sqlite, busy_timeout_ms))
            _make_sqlite_file(parsed.database or ":memory:")
    except (SQLAlchemyError, ImportError, OSError) as error:
        raise Misconfigured(f"database_url cannot be used: {error}") from error
    except sqlite3.Error as error:
        raise StoreUnavailable(f"{url} cannot be opened: {error}") from error
    return engine


def _make_sqlite_file(path: str) -> None:
    """Make the file and its folder, or see that the file is a database. Raises OSError or sqlite3.Error.

    Asked of SQLite itself, because aiosqlite's thread outlives a connection that cannot be opened, and
    complains when the event loop has ended before it.
    """
    if path == ":memory:":
        raise Misconfigured("database_url: SQLite in memory would forget every bot; name a file")
    if path.startswith("file:"):
        return  # a URI with options of its own, for whoever knows what they do
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA schema_version")


async def migrate(engine: AsyncEngine, revision: str = "head") -> None:
    """Run the migrations that the database lacks up to `revision`, all of them or none."""
    async with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            # Takes the write lock first: of two processes that start at once, the second waits, then finds all done.
            await connection.exec_driver_sql("BEGIN IMMEDIATE")
        elif engine.dialect.name == "postgresql":
            await connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")
        await connection.run_sync(_upgrade, revision)
        await connection.commit()


def _upgrade(connection: Connection, revision: str) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def _prepare_sqlite(busy_timeout_ms: int, connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    # The timeout comes first: switching to the write-ahead log waits for a lock too.
    cursor.execute(f"PRAGMA busy_timeout = {busy_timeout_ms}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()
