"""Bots with their knowledge, instruction and default parameters."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the table of bots."""
    op.create_table(
        "bots",
        sa.Column("bot_id", sa.String(64), nullable=False),
        sa.Column("knowledge", sa.Text, nullable=False),
        sa.Column("instruction", sa.Text, nullable=True),
        sa.Column("parameters", sa.JSON, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("bot_id", name="pk_bots"),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("bots")
