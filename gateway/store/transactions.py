"""One SQL database: opening it, and transactions whose failures mean something."""

import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final, Self, TypeVar

from sqlalchemy import Select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DatabaseError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from gateway.errors import StoreUnavailable
from gateway.store.database import TIMEOUT_SECONDS, Database, migrate, open_database
from gateway.store.memory import now
from gateway.store.prepared import Prepared, Row
from gateway.store.sqlite import remedy

QUIET_SECONDS: Final = 10.0
"""How long the log says nothing more of a failure that it has told."""

T = TypeVar("T")

logger = logging.getLogger(__name__)


class SqlDatabase:
    """A database whose schema is up to date."""

    def __init__(self, database: Database, clock: Callable[[], datetime] = now) -> None:
        self._database = database
        self._clock = clock
        self._told: dict[str, float] = {}
        self._translated = _Translated(self._tell)
        dialects = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}
        self._insert: Callable[..., Any] = dialects[database.url.get_backend_name()]

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, *, patience: float = TIMEOUT_SECONDS) -> AsyncIterator[Self]:
        """Bring the database at `url` up to date, yield its store, close every connection after.

        No call of the store takes much longer than `patience` seconds.

        Raises Misconfigured for a URL that names no database, StoreUnavailable when it cannot be opened.
        """
        database = open_database(url, timeout=patience)
        try:
            try:
                with _Translated():
                    await migrate(database)
            except StoreUnavailable as error:
                # Whoever starts the gateway may know more than its clients. The URL hides its password in text.
                raise StoreUnavailable(f"{database.url} cannot be opened: {_reason(error)}") from error
            yield cls(database)
        finally:
            await database.dispose()

    async def _rows(self, prepared: Prepared, **values: Any) -> Sequence[Row]:
        """Return the rows of `prepared`: a few, found by their key."""
        with self._translated:
            return await self._database.rows(prepared, values)

    async def _many_rows(self, query: Select[Any]) -> Sequence[Row]:
        """Return the rows of `query`, however many."""
        with self._translated:
            return await self._database.read(lambda connection: connection.execute(query).mappings().all())

    async def _write(self, work: Callable[[Connection], T]) -> T:
        """Return what `work` returns, done in one transaction: kept when it returns, undone when it raises."""
        with self._translated:
            return await self._database.write(work)

    async def _write_one(self, prepared: Prepared, **values: Any) -> Row | None:
        """Return the one row that `prepared` returns, or None, when what it wrote is kept."""
        with self._translated:
            return await self._database.write_one(prepared, values)

    def _tell(self, error: StoreUnavailable) -> None:
        """Log why the database cannot be used, by kind: messages of databases may hold users' text."""
        cause = error.__cause__
        original = cause.orig if isinstance(cause, DBAPIError) else cause
        name = getattr(original, "sqlite_errorname", None) or getattr(original, "sqlstate", None)
        kind = f"{type(original).__name__}{f' {name}' if name else ''}"
        moment = time.monotonic()
        if moment - self._told.get(kind, float("-inf")) > QUIET_SECONDS:
            self._told[kind] = moment
            logger.warning("%s (%s)", error.detail, kind)


def _reason(error: StoreUnavailable) -> str:
    cause = error.__cause__
    original = cause.orig if isinstance(cause, DBAPIError) else cause
    return f"{original}{remedy(original)}"


class _Translated:
    """Turns what SQLAlchemy raises when the database is out of reach, locked or damaged into StoreUnavailable.

    What else it raises is a mistake of ours and passes. `tell` gets what is raised, its cause in it.
    """

    def __init__(self, tell: Callable[[StoreUnavailable], None] | None = None) -> None:
        self._tell = tell

    def __enter__(self) -> None:
        """Nothing is to be done: one may be used again and again, by many at once."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Raise StoreUnavailable for what means it."""
        if not isinstance(error, StoreUnavailable | PoolTimeoutError | DBAPIError | TimeoutError):
            return
        unavailable = _meaning(error)
        if unavailable is None:
            return
        if unavailable is not error:
            unavailable.__cause__ = error
        if self._tell is not None:
            self._tell(unavailable)
        raise unavailable from unavailable.__cause__


def _meaning(error: Exception) -> StoreUnavailable | None:
    """Return what a failure means to whoever asked; None when it is a mistake of ours."""
    if isinstance(error, StoreUnavailable):
        return error
    if isinstance(error, PoolTimeoutError):
        return StoreUnavailable("the database has no free connection just now")
    if isinstance(error, TimeoutError):
        return StoreUnavailable("the database did not answer in time")
    # SQLite says of a damaged file no more than DatabaseError, the base of all that databases say.
    out_of_reach = isinstance(error, OperationalError | InterfaceError) or type(error) is DatabaseError
    if isinstance(error, DBAPIError) and (out_of_reach or error.connection_invalidated):
        return StoreUnavailable(f"the database cannot be used just now{remedy(error.orig)}")
    return None
