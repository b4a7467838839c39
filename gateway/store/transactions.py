"""One SQL database: opening it, and transactions whose failures mean something."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from datetime import datetime
from typing import Any, Self

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DatabaseError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gateway.errors import StoreUnavailable
from gateway.store.database import migrate, open_engine
from gateway.store.memory import now


class SqlDatabase:
    """The database behind `engine`, whose schema is up to date."""

    def __init__(self, engine: AsyncEngine, clock: Callable[[], datetime] = now) -> None:
        self._engine = engine
        self._clock = clock
        self._turn = asyncio.Lock() if engine.dialect.name == "sqlite" else nullcontext()
        self._insert: Callable[..., Any] = postgresql.insert if engine.dialect.name == "postgresql" else sqlite.insert

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[Self]:
        """Bring the database at `url` up to date, yield its store, close every connection after.

        Raises Misconfigured for a URL that names no database, StoreUnavailable when it cannot be opened.
        """
        engine = open_engine(url)
        try:
            try:
                with _translated():
                    await migrate(engine)
            except StoreUnavailable as error:
                # Whoever starts the gateway may know more than its clients. The URL hides its password in text.
                raise StoreUnavailable(f"{engine.url} cannot be opened: {_reason(error)}") from error
            yield cls(engine)
        finally:
            await engine.dispose()

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that writes. In SQLite, where one may write at a time, the writers of this process queue up:
        a lock of the database's is waited for by sleeping ever longer.
        """
        async with self._turn, self._transaction() as connection:
            yield connection

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        with _translated():
            async with self._engine.begin() as connection:
                yield connection


def _reason(error: StoreUnavailable) -> str:
    cause = error.__cause__
    return str(cause.orig if isinstance(cause, DBAPIError) else cause)


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
            raise StoreUnavailable("the database cannot be used just now") from error
        raise
