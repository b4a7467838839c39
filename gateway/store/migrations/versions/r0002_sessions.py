"""Sessions with what was said in them; names and limits of bots; names that sort alike everywhere."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def _bot_name() -> sa.types.TypeEngine[str]:
    return sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql")


def upgrade() -> None:
    """Make the tables of sessions and exchanges, and the new columns of bots."""
    op.add_column("bots", sa.Column("name", sa.Text, nullable=False, server_default=""))
    op.add_column("bots", sa.Column("limits", sa.JSON, nullable=False, server_default="{}"))
    if op.get_bind().dialect.name == "postgresql":
        op.alter_column("bots", "bot_id", type_=_bot_name(), existing_nullable=False)
    op.create_table(
        "sessions",
        sa.Column("session_id", sa.String(36), nullable=False),
        sa.Column("bot_id", _bot_name(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("exchanges", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("session_id", name="pk_sessions"),
        sa.ForeignKeyConstraint(["bot_id"], ["bots.bot_id"], name="fk_sessions_bot_id", ondelete="CASCADE"),
    )
    op.create_index("ix_sessions_bot_id_session_id", "sessions", ["bot_id", "session_id"])
    op.create_index("ix_sessions_updated_at", "sessions", ["updated_at"])
    op.create_table(
        "exchanges",
        sa.Column("session_id", sa.String(36), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("response", sa.Text, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("session_id", "number", name="pk_exchanges"),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.session_id"], name="fk_exchanges_session_id", ondelete="CASCADE"
        ),
    )


def downgrade() -> None:
    """Drop them; the collation stays, it harms nobody."""
    op.drop_table("exchanges")
    op.drop_table("sessions")
    op.drop_column("bots", "limits")
    op.drop_column("bots", "name")
