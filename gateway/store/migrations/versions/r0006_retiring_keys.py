"""When a rotated key ends, beside when it was to end: its heir lives as long as it was to live, however often made."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the column."""
    op.add_column("keys", sa.Column("retires_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    """Drop it; rotated keys then live as long as they were to."""
    op.drop_column("keys", "retires_at")
