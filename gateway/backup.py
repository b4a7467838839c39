"""Copies of the bots' SQLite database, made and put back while the gateway runs or stands still.

PostgreSQL has tools of its own for it, pg_dump and pg_restore, which docs/operate.md shows.
"""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import URL, create_engine, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from gateway.errors import Misconfigured, StoreUnavailable
from gateway.store.database import upgrade

PAGES_AT_ONCE = 256
"""A megabyte: writers are held up no longer than its copying takes."""


def back_up(database_url: str, target: Path) -> int:
    """Copy the database to the file `target`, whole or not at all; return the bytes written.

    The copy is of one moment, whatever is written meanwhile. Raises Misconfigured when `database_url` is not SQLite's
    or `target` is there already, StoreUnavailable when reading or writing fails.
    """
    source = _file(database_url)
    if target.exists():
        raise Misconfigured(f"{target} is there already; a backup overwrites nothing")
    half = target.with_name(f".{target.name}.half")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        half.unlink(missing_ok=True)
        with _opened(source) as live, contextlib.closing(sqlite3.connect(half)) as copy:
            live.backup(copy, pages=PAGES_AT_ONCE)
            copy.execute("PRAGMA journal_mode = DELETE")  # one file, with nothing beside it
            _check(copy, half)
        half.rename(target)
    except (OSError, sqlite3.Error) as error:
        raise StoreUnavailable(f"{source} cannot be copied to {target}: {error}") from error
    finally:
        half.unlink(missing_ok=True)
    return target.stat().st_size


def restore(database_url: str, source: Path) -> int:
    """Put the copy `source` in place of all that the database holds, at once or not at all; return its bytes.

    Its tables are brought up to date before: a gateway that runs meanwhile knows no others. Raises Misconfigured when
    `database_url` is not SQLite's or `source` is a newer release's, StoreUnavailable when it is no sound copy of such
    a database, or the database cannot be written.
    """
    target = _file(database_url)
    fresh = target.with_name(f".{target.name}.restored")
    try:
        with _opened(source) as copy:
            _check(copy, source)
            target.parent.mkdir(parents=True, exist_ok=True)
            fresh.unlink(missing_ok=True)
            with contextlib.closing(sqlite3.connect(fresh)) as renewed:
                copy.backup(renewed)
        _bring_up_to_date(fresh)
        with _opened(fresh) as renewed, contextlib.closing(sqlite3.connect(target, timeout=10)) as live:
            renewed.backup(live)
    except (OSError, sqlite3.Error, SQLAlchemyError) as error:
        raise StoreUnavailable(f"{source} cannot be put in place of {target}: {error}") from error
    finally:
        fresh.unlink(missing_ok=True)
    return source.stat().st_size


def _bring_up_to_date(path: Path) -> None:
    engine = create_engine(URL.create("sqlite", database=str(path)), hide_parameters=True)
    try:
        with engine.begin() as connection:
            upgrade(connection)
    finally:
        engine.dispose()


def _file(database_url: str) -> Path:
    try:
        url = make_url(database_url)
    except ArgumentError as error:
        raise Misconfigured(f"database_url cannot be used: {error}") from error
    if url.get_backend_name() != "sqlite":
        raise Misconfigured(f"database_url is {url.get_backend_name()}'s: use its own tools, pg_dump (docs/operate.md)")
    return Path(url.database or "")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file")
    with contextlib.closing(sqlite3.connect(path, timeout=10)) as connection:
        yield connection


def _check(connection: sqlite3.Connection, path: Path) -> None:
    """Raise StoreUnavailable unless the file is sound and holds bots."""
    try:
        (found,) = connection.execute("PRAGMA integrity_check").fetchone()
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.DatabaseError as error:
        raise StoreUnavailable(f"{path} is no SQLite database, or a broken one: {error}") from error
    if found != "ok":
        raise StoreUnavailable(f"{path} is broken: {found}")
    if "bots" not in tables:
        raise StoreUnavailable(f"{path} holds no bots' database")
