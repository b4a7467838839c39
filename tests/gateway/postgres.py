"""A PostgreSQL of the tests' own: real, on a Unix socket in a temporary folder, gone afterwards."""

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.gateway.required import require

DEBIAN = Path("/usr/lib/postgresql")


class Postgres:
    """A running server; `new_url` makes a database of its own for whoever asks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count()

    def connect(self, **options: Any) -> psycopg.Connection:
        """Return a connection to the server's own database."""
        return psycopg.connect(host=str(self._folder), user="postgres", dbname="postgres", autocommit=True, **options)

    def new_url(self) -> str:
        """Return the address of a new database, whose default order is not that of code points."""
        name = f"bots{next(self._numbers)}"
        with self.connect() as connection:
            connection.execute(
                f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'"
                " LOCALE_PROVIDER icu ICU_LOCALE 'en' LOCALE 'C.UTF-8'"
            )
        return f"postgresql+psycopg://postgres@/{name}?host={self._folder}"

    def cut_connections(self) -> None:
        """End every other connection, as a restart of the server does."""
        with self.connect() as connection:
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")


def _binaries() -> Path | None:
    found = shutil.which("postgres")
    if found:
        return Path(found).parent
    return next(
        (path / "bin" for path in sorted(DEBIAN.glob("*"), reverse=True) if (path / "bin/postgres").exists()), None
    )


@contextlib.contextmanager
def running_postgres() -> Iterator[Postgres]:
    """Start a server, end it after. Skips where there is none installed."""
    binaries = require(_binaries(), "PostgreSQL", "apt-get install postgresql")
    # The server refuses to run as root, which is who runs tests in a container.
    account: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.getuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="godel-pg-"))
    if account:
        shutil.chown(folder, "postgres", "postgres")
    try:
        data = folder / "data"
        subprocess.run(
            [binaries / "initdb", "-D", data, "-U", "postgres", "--auth=trust", "-E", "UTF8", "--locale=C.UTF-8", "-N"],
            check=True,
            capture_output=True,
            cwd=folder,
            **account,
        )
        options = {"listen_addresses": "", "unix_socket_directories": folder, "fsync": "off", "max_connections": 60}
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [binaries / "postgres", "-D", data, *settings], stdout=log, stderr=log, cwd=folder, **account
            )
        postgres = Postgres(folder)
        try:
            _wait(postgres, server, folder / "log")
            yield postgres
        finally:
            server.send_signal(signal.SIGINT)  # its fast shutdown
            server.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait(postgres: Postgres, server: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + 30
    while True:
        try:
            postgres.connect().close()
            return
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > end:
                pytest.fail(f"PostgreSQL did not start: {log.read_text()}")
            time.sleep(0.05)
