"""A PostgreSQL server: many connections, on which the event loop waits."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from sqlalchemy import URL
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from gateway.store.prepared import Prepared, Row

LOCK: Final = 0x60DE1
"""The key of the advisory lock round what must come first."""

T = TypeVar("T")


class PostgresqlDatabase:
    """A `Database`. Each call ends after `timeout` seconds."""

    def __init__(self, url: URL, timeout: float) -> None:
        """Raises what SQLAlchemy raises for an address of nothing, ImportError for a driver that is not there."""
        self.url = url
        self._timeout = timeout
        # Statements fail with their parameters in the message by default, and those are users' text.
        # The ping finds connections that a restart of the database has cut, before a request does.
        self._engine = create_async_engine(
            url,
            hide_parameters=True,
            pool_pre_ping=True,
            pool_timeout=timeout,
            connect_args=_limits(timeout) if url.get_driver_name() == "psycopg" else {},
        )

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Return what `work` reads."""
        async with self._transaction() as connection:
            return await connection.run_sync(work)

    async def rows(self, prepared: Prepared, values: Mapping[str, Any]) -> Sequence[Row]:
        """Return what `prepared` reads."""
        async with self._transaction() as connection:
            return (await connection.execute(prepared.statement, values)).mappings().all()

    async def write(self, work: Callable[[Connection], T], *, first: bool = False) -> T:
        """Return what `work` returns when what it wrote is kept."""
        async with self._transaction() as connection:
            if first:
                await connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")
            return await connection.run_sync(work)

    async def write_one(self, prepared: Prepared, values: Mapping[str, Any]) -> Row | None:
        """Return the one row that `prepared` returns, or None, when what it wrote is kept."""
        async with self._transaction() as connection:
            return (await connection.execute(prepared.statement, values)).mappings().one_or_none()

    async def dispose(self) -> None:
        """Close every connection."""
        await self._engine.dispose()

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        async with asyncio.timeout(self._timeout), self._engine.begin() as connection:
            yield connection


def _limits(timeout: float) -> dict[str, Any]:
    """Return what keeps a connection from waiting for ever for a server that is gone without a word."""
    seconds, milliseconds = math.ceil(timeout), math.ceil(timeout * 1e3)
    return {
        "connect_timeout": max(2, seconds),  # libpq takes less for two
        "tcp_user_timeout": milliseconds,
        "keepalives_idle": max(1, seconds),
        "options": f"-c statement_timeout={milliseconds} -c idle_in_transaction_session_timeout={3 * milliseconds}",
    }
