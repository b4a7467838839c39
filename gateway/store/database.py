"""Opening a database and bringing its schema up to date."""

import contextlib
import math
import sqlite3
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import event, make_url
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from gateway.errors import Misconfigured, StoreUnavailable

TIMEOUT_SECONDS = 10.0
"""How long a request waits for the database: for a lock, a free connection, an answer."""

RECOVERY = "stop what uses it and put a backup in its place, or save what can be read: sqlite3 {0} .recover"


REMEDIES = {
    "SQLITE_FULL": "its disk is full; make room",
    "SQLITE_READONLY": "it may only be read; look at the rights of its file and folder, and at the disk",
    "SQLITE_CANTOPEN": "it cannot be opened; look at the rights of its file and folder, and at the disk",
    "SQLITE_IOERR": "its disk fails",
    "SQLITE_CORRUPT": "its file is damaged; docs/reliability.md says what to do",
    "SQLITE_NOTADB": "its file is damaged; docs/reliability.md says what to do",
    "SQLITE_BUSY": "another process holds its lock",
}
"""What SQLite's primary result codes mean to people."""

MIGRATION_LOCK = 0x60DE1
"""The key of PostgreSQL's advisory lock round the migrations."""


def open_engine(url: str, *, timeout: float = TIMEOUT_SECONDS) -> AsyncEngine:
    """Return an engine for `url`; it is the caller's to dispose. SQLite's file and its folder are made.

    Nothing is waited for longer than `timeout` seconds, the lock of a SQLite file half as long.

    Raises Misconfigured when `url` is no database address or its driver is not installed, StoreUnavailable
    when SQLite cannot open the file, or finds it damaged.
    """
    try:
        parsed = make_url(url)
        sqlite = parsed.get_backend_name() == "sqlite"
        if sqlite and (parsed.database or ":memory:") == ":memory:":
            raise Misconfigured("database_url: SQLite in memory would forget every bot; name a file")
        arguments = {} if sqlite or parsed.get_driver_name() != "psycopg" else _postgresql_limits(timeout)
        # Statements fail with their parameters in the message by default, and those are users' text.
        # The ping finds connections that a restart of the database has cut, before a request does.
        engine = create_async_engine(
            parsed, hide_parameters=True, pool_pre_ping=not sqlite, pool_timeout=timeout, connect_args=arguments
        )
        if sqlite:
            event.listen(engine.sync_engine, "connect", partial(_prepare_sqlite, math.ceil(timeout * 500)))
            _make_sqlite_file(parsed.database or "")
    except (SQLAlchemyError, ImportError, OSError) as error:
        raise Misconfigured(f"database_url cannot be used: {error}") from error
    except sqlite3.Error as error:
        raise StoreUnavailable(f"{url} cannot be opened: {error}{remedy(error)}") from error
    return engine


def remedy(error: object) -> str:
    """Return, for the end of a message, what is known of the cause of a database's error and what to do.

    Only SQLite tells it by a code of its own, whose first two words are the primary one.
    """
    primary = "_".join(getattr(error, "sqlite_errorname", "").split("_")[:2])
    return f": {REMEDIES[primary]}" if primary in REMEDIES else ""


def _make_sqlite_file(path: str) -> None:
    """Make the file and its folder, or see that the file is a database. Raises OSError or sqlite3.Error.

    Asked of SQLite itself, because aiosqlite's thread outlives a connection that cannot be opened, and
    complains when the event loop has ended before it.
    """
    if path.startswith("file:"):
        return  # a URI with options of its own, for whoever knows what they do
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        ((found,),) = connection.execute("PRAGMA quick_check(1)").fetchall()
    if found != "ok":
        # Part of it may be read still, but a write could spoil more.
        raise StoreUnavailable(f"{path} is damaged ({found}): {RECOVERY.format(path)}")


def _postgresql_limits(timeout: float) -> dict[str, Any]:
    """Return what keeps a connection from waiting for ever for a server that is gone without a word."""
    seconds, milliseconds = math.ceil(timeout), math.ceil(timeout * 1e3)
    return {
        "connect_timeout": max(2, seconds),  # libpq takes less for two
        "tcp_user_timeout": milliseconds,
        "keepalives_idle": max(1, seconds),
        "options": f"-c statement_timeout={milliseconds} -c idle_in_transaction_session_timeout={3 * milliseconds}",
    }


async def migrate(engine: AsyncEngine, revision: str = "head") -> None:
    """Run the migrations that the database lacks up to `revision`, all of them or none."""
    async with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            # Takes the write lock first: of two processes that start at once, the second waits, then finds all done.
            await connection.exec_driver_sql("BEGIN IMMEDIATE")
        elif engine.dialect.name == "postgresql":
            await connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")
        await connection.run_sync(_upgrade, revision)
        await connection.commit()


def _upgrade(connection: Connection, revision: str) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def _prepare_sqlite(busy_timeout_ms: int, connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    # The timeout comes first: switching to the write-ahead log waits for a lock too.
    cursor.execute(f"PRAGMA busy_timeout = {busy_timeout_ms}")
    cursor.execute("PRAGMA journal_mode = WAL")
    # Each commit is on the disk before it is acknowledged, so that it outlives the machine's power too, not only us.
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()
