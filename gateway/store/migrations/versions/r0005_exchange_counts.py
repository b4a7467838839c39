"""The database counts a session's exchanges itself, so that one statement appends one."""

from alembic import op

revision = "0005"
down_revision = "0004"

_COUNT = """
    UPDATE sessions SET exchanges = NEW.number, updated_at = NEW.created_at WHERE session_id = NEW.session_id;
"""


# What a gateway of this release appended to a database of the one before, without the trigger, was not counted.
_RECOUNT = """
    UPDATE sessions SET exchanges = (
        SELECT max(number) FROM exchanges WHERE exchanges.session_id = sessions.session_id
    ) WHERE exchanges < (SELECT max(number) FROM exchanges WHERE exchanges.session_id = sessions.session_id)
"""


def upgrade() -> None:
    """Make the trigger. Earlier releases, which write the same number and moment themselves, do not notice."""
    op.execute(_RECOUNT)
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE OR REPLACE FUNCTION count_exchange() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN {_COUNT} RETURN NULL; END $$"
        )
        op.execute(
            "CREATE TRIGGER exchange_counted AFTER INSERT ON exchanges FOR EACH ROW EXECUTE FUNCTION count_exchange()"
        )
    else:
        op.execute(f"CREATE TRIGGER exchange_counted AFTER INSERT ON exchanges FOR EACH ROW BEGIN {_COUNT} END")


def downgrade() -> None:
    """Drop it."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP TRIGGER exchange_counted ON exchanges")
        op.execute("DROP FUNCTION count_exchange()")
    else:
        op.execute("DROP TRIGGER exchange_counted")
