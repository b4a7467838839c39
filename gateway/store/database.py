"""Opening a database and bringing its schema up to date.

What is asked of a database is work on a connection of SQLAlchemy's, done in one transaction. Where it is done differs:
in SQLite, which is a library, by a thread or at once; in PostgreSQL, which is a server, while the event loop goes on.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from sqlalchemy import URL, make_url
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from gateway.errors import Misconfigured
from gateway.store.postgresql import PostgresqlDatabase
from gateway.store.prepared import Prepared, Row
from gateway.store.sqlite import SqliteDatabase

TIMEOUT_SECONDS: Final = 10.0
"""How long a request waits for the database: for a lock, a free connection, an answer."""

T = TypeVar("T")


class Database(Protocol):
    """Does work in transactions: each is kept whole when the work returns, and undone when it raises.

    What SQLAlchemy raises passes, and TimeoutError. Work that nobody waits for any more is kept or undone, whole, all
    the same.
    """

    url: URL

    async def rows(self, prepared: Prepared, values: Mapping[str, Any]) -> Sequence[Row]:
        """Return what `prepared` reads: a few rows, found by their key."""
        ...

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Return what `work` reads, however much."""
        ...

    async def write(self, work: Callable[[Connection], T], *, first: bool = False) -> T:
        """Return what `work` returns when what it wrote is kept. Raises StoreUnavailable when its turn is late.

        With `first` no other process can write, or migrate, between what `work` reads and what it writes.
        """
        ...

    async def write_one(self, prepared: Prepared, values: Mapping[str, Any]) -> Row | None:
        """Return the one row that `prepared` returns, or None, when what it wrote is kept. Raises as `write`.

        For what is written with every question: a statement alone needs neither to begin nor to end a transaction.
        """
        ...

    async def dispose(self) -> None:
        """Close every connection."""
        ...


def open_database(url: str, *, timeout: float = TIMEOUT_SECONDS) -> Database:
    """Return the database at `url`; it is the caller's to dispose. SQLite's file and its folder are made.

    Nothing is waited for longer than `timeout` seconds, the lock of a SQLite file half as long.

    Raises Misconfigured when `url` is no database address or its driver is not installed, StoreUnavailable
    when SQLite cannot open the file, or finds it damaged.
    """
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite":
            return SqliteDatabase(parsed, timeout)
        if parsed.get_backend_name() != "postgresql":
            raise Misconfigured(
                f"database_url: {parsed.get_backend_name()} cannot be used; give sqlite:///file or"
                " postgresql+psycopg://user:password@host/database"
            )
        return PostgresqlDatabase(parsed, timeout)
    except (SQLAlchemyError, ImportError, OSError) as error:
        raise Misconfigured(f"database_url cannot be used: {error}") from error


async def migrate(database: Database, revision: str = "head") -> None:
    """Run the migrations that the database lacks up to `revision`, all of them or none.

    Of two processes that start at once, the second waits, then finds all done. Raises Misconfigured for tables of a
    newer release.
    """
    await database.write(partial(upgrade, revision=revision), first=True)


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Do what `migrate` does on a connection of one's own. Raises Misconfigured for tables of a newer release."""
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, revision)
    except CommandError as error:
        raise Misconfigured(
            f"the database was made by a newer release ({error}); start that one, or restore a backup of this one"
        ) from error
