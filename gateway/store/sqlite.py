"""A SQLite file. A transaction is one call to a thread; what lies at hand is read without any."""

import asyncio
import contextlib
import math
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import URL, StaticPool, create_engine, event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError, OperationalError

from gateway.errors import Misconfigured, StoreUnavailable
from gateway.store.prepared import Prepared, Row
from gateway.store.worker_thread import WorkerThread

READERS: Final = 4
"""Threads that read much at a time."""

RECOVERY: Final = "stop what uses it and put a backup in its place, or save what can be read: sqlite3 {0} .recover"

REMEDIES: Final = {
    "SQLITE_FULL": "its disk is full; make room",
    "SQLITE_READONLY": "it may only be read; look at the rights of its file and folder, and at the disk",
    "SQLITE_CANTOPEN": "it cannot be opened; look at the rights of its file and folder, and at the disk",
    "SQLITE_IOERR": "its disk fails",
    "SQLITE_CORRUPT": "its file is damaged; docs/reliability.md says what to do",
    "SQLITE_NOTADB": "its file is damaged; docs/reliability.md says what to do",
    "SQLITE_BUSY": "another process holds its lock",
}
"""What SQLite's primary result codes mean to people."""

T = TypeVar("T")


class SqliteDatabase:
    """A `Database`. By its write-ahead log readers wait for nobody; one process writes at a time.

    Half of `timeout` is for the writers of this process, half for the lock of another one.
    """

    def __init__(self, url: URL, timeout: float) -> None:
        """Raises Misconfigured for a database in memory, OSError for a folder that cannot be, StoreUnavailable when
        SQLite cannot open the file, or finds it damaged.
        """
        self.url = url.set(drivername="sqlite")  # sqlite+aiosqlite, as earlier releases wrote it, is the same file
        _make_file(self.url)
        self._timeout = timeout
        lock_ms = math.ceil(timeout * 500)
        self._engine = _engine(self.url, lock_ms)
        self._reading, self._writing = _Held(self.url, 0), _Held(self.url, lock_ms)
        self._turn = asyncio.Lock()  # SQLite's own wait for writers sleeps ever longer
        self._writer = WorkerThread("sqlite-writer")
        self._readers = ThreadPoolExecutor(READERS, "sqlite-reader")

    async def rows(self, prepared: Prepared, values: Mapping[str, Any]) -> Sequence[Row]:
        """Return what `prepared` reads, at once: to find a row by its key takes less time than to call a thread."""
        try:
            return self._reading.rows(prepared, values)
        except OperationalError:  # another process mends the log, or holds the file to itself
            return await self.read(  # which waits, but elsewhere
                lambda connection: connection.execute(prepared.statement, values).mappings().all()
            )

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Return what `work` reads."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, _transact, self._engine, work)

    async def write(self, work: Callable[[Connection], T], *, first: bool = False) -> T:
        """Return what `work` returns when what it wrote is kept."""
        await self._turn_to_write()
        try:
            return await self._writer.call(_transact, self._engine, partial(_locked, work) if first else work)
        finally:
            self._turn.release()

    async def write_one(self, prepared: Prepared, values: Mapping[str, Any]) -> Row | None:
        """Return the one row that `prepared` returns, or None, when what it wrote is kept."""
        await self._turn_to_write()
        try:
            rows = await self._writer.call(self._writing.rows, prepared, values)
        finally:
            self._turn.release()
        return rows[0] if rows else None

    async def dispose(self) -> None:
        """Finish what is being done, then close every connection."""
        await self._writer.stop()
        await asyncio.to_thread(self._readers.shutdown)
        self._reading.close()
        self._writing.close()
        self._engine.dispose()

    async def _turn_to_write(self) -> None:
        """Wait for `_turn`; whoever has it must release it. Raises StoreUnavailable when it is late."""
        try:
            async with asyncio.timeout(self._timeout / 2):
                await self._turn.acquire()
        except TimeoutError as error:
            raise StoreUnavailable("too many writes wait for the database just now") from error


class _Held:
    """A connection that stays open, for one thread. Each statement is a transaction by itself, which costs half as much
    as one that is begun and ended.
    """

    def __init__(self, url: URL, busy_timeout_ms: int) -> None:
        self._engine = _engine(url, busy_timeout_ms, poolclass=StaticPool, isolation_level="AUTOCOMMIT")
        self._connection: Connection | None = None
        self._driver: Any = None
        """SQLAlchemy's connection, and the one of sqlite3 beneath it, which takes four steps to reach."""

    def rows(self, prepared: Prepared, values: Mapping[str, Any]) -> Sequence[Row]:
        """Return the rows of `prepared`; after an error of the database the next one gets a new connection."""
        try:
            if self._connection is None:
                self._connection = self._engine.connect()
                self._driver = self._connection.connection.driver_connection
            return prepared.rows(self._driver, values)
        except DBAPIError:
            self.close()
            raise

    def close(self) -> None:
        """Close it; what is done later opens another one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = self._driver = None
        self._engine.dispose()


def remedy(error: object) -> str:
    """Return, for the end of a message, what is known of the cause of a database's error and what to do.

    Only SQLite tells it by a code of its own, whose first two words are the primary one.
    """
    primary = "_".join(getattr(error, "sqlite_errorname", "").split("_")[:2])
    return f": {REMEDIES[primary]}" if primary in REMEDIES else ""


def _transact(engine: Engine, work: Callable[[Connection], T]) -> T:
    with engine.begin() as connection:
        return work(connection)


def _locked(work: Callable[[Connection], T], connection: Connection) -> T:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
    return work(connection)


def _engine(url: URL, busy_timeout_ms: int, **options: Any) -> Engine:
    # Statements fail with their parameters in the message by default, and those are users' text.
    engine = create_engine(url, hide_parameters=True, connect_args={"check_same_thread": False}, **options)
    event.listen(engine, "connect", partial(_prepare, busy_timeout_ms))
    return engine


def _prepare(busy_timeout_ms: int, connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    # The timeout comes first: switching to the write-ahead log waits for a lock too.
    cursor.execute(f"PRAGMA busy_timeout = {busy_timeout_ms}")
    cursor.execute("PRAGMA journal_mode = WAL")
    # Each commit is on the disk before it is acknowledged, so that it outlives the machine's power too, not only us.
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _make_file(url: URL) -> None:
    """Make the file and its folder, or see that the file is a database."""
    path = url.database or ":memory:"
    if path == ":memory:":
        raise Misconfigured("database_url: SQLite in memory would forget every bot; name a file")
    if path.startswith("file:"):
        return  # a URI with options of its own, for whoever knows what they do
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            ((found,),) = connection.execute("PRAGMA quick_check(1)").fetchall()
    except sqlite3.Error as error:
        raise StoreUnavailable(f"{url} cannot be opened: {error}{remedy(error)}") from error
    if found != "ok":
        # Part of it may be read still, but a write could spoil more.
        raise StoreUnavailable(f"{path} is damaged ({found}): {RECOVERY.format(path)}")
