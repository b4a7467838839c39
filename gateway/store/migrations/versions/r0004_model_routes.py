"""Which model servers answer, and what share of the requests each of their versions gets."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make the table of model routes: a row for each revision of all deployments."""
    op.create_table(
        "model_routes",
        sa.Column("revision", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("deployments", sa.JSON, nullable=False),
        sa.Column("earlier", sa.JSON, nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("revision", name="pk_model_routes"),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("model_routes")
