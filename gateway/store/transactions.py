"""One SQL database: opening it, and transactions whose failures mean something."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from typing import Any, Self

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DatabaseError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gateway.errors import StoreUnavailable
from gateway.store.database import TIMEOUT_SECONDS, migrate, open_engine, remedy
from gateway.store.memory import now

UNBOUNDED = 1 << 30

QUIET_SECONDS = 10.0
"""How long the log says nothing more of a failure that it has told."""

logger = logging.getLogger(__name__)


class SqlDatabase:
    """The database behind `engine`, whose schema is up to date."""

    def __init__(
        self, engine: AsyncEngine, clock: Callable[[], datetime] = now, *, timeout: float = TIMEOUT_SECONDS
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._timeout = timeout
        self._told: dict[str, float] = {}
        self._local = engine.dialect.name == "sqlite"
        self._turn = asyncio.Lock() if self._local else asyncio.Semaphore(UNBOUNDED)
        self._insert: Callable[..., Any] = postgresql.insert if engine.dialect.name == "postgresql" else sqlite.insert

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, *, patience: float = TIMEOUT_SECONDS) -> AsyncIterator[Self]:
        """Bring the database at `url` up to date, yield its store, close every connection after.

        No call of the store takes much longer than `patience` seconds.

        Raises Misconfigured for a URL that names no database, StoreUnavailable when it cannot be opened.
        """
        engine = open_engine(url, timeout=patience)
        try:
            try:
                with _translated():
                    await migrate(engine)
            except StoreUnavailable as error:
                # Whoever starts the gateway may know more than its clients. The URL hides its password in text.
                raise StoreUnavailable(f"{engine.url} cannot be opened: {_reason(error)}") from error
            yield cls(engine, timeout=patience)
        finally:
            await engine.dispose()

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that writes. In SQLite, where one may write at a time, the writers of this process queue up:
        a lock of the database's is waited for by sleeping ever longer.
        """
        try:
            async with asyncio.timeout(self._timeout / 2):  # the other half may go to the lock of another process
                await self._turn.acquire()
        except TimeoutError as error:
            raise StoreUnavailable("too many writes wait for the database just now") from error
        try:
            async with self._transaction() as connection:
                yield connection
        finally:
            self._turn.release()

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        try:
            with _translated():
                # SQLite has a limit of its own, and a call that is given up would go on in its thread.
                async with asyncio.timeout(None if self._local else self._timeout), self._engine.begin() as connection:
                    yield connection
        except StoreUnavailable as error:
            self._tell(error)
            raise

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


@contextmanager
def _translated() -> Iterator[None]:
    """Turn what SQLAlchemy raises when the database is out of reach, locked or damaged into StoreUnavailable.

    What else it raises is a mistake of ours and passes.
    """
    try:
        yield
    except PoolTimeoutError as error:
        raise StoreUnavailable("the database has no free connection just now") from error
    except DBAPIError as error:
        # SQLite says of a damaged file no more than DatabaseError, the base of all that databases say.
        out_of_reach = isinstance(error, OperationalError | InterfaceError) or type(error) is DatabaseError
        if out_of_reach or error.connection_invalidated:
            raise StoreUnavailable(f"the database cannot be used just now{remedy(error.orig)}") from error
        raise
    except TimeoutError as error:
        raise StoreUnavailable("the database did not answer in time") from error
