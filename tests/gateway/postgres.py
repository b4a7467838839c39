"""A PostgreSQL of the tests' own: real, on a Unix socket in a temporary folder, gone afterwards."""

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from tests.gateway.required import require

DEBIAN = Path("/usr/lib/postgresql")


class Postgres:
    """A running server; `new_url` makes a database of its own for whoever asks."""

    def __init__(
        self, folder: Path, command: Sequence[str | Path], account: Mapping[str, Any], address: str = ""
    ) -> None:
        self._folder, self._command, self._account, self._address = folder, command, account, address
        self._numbers = itertools.count()
        self._server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it answers."""
        with (self._folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                self._command, stdout=log, stderr=log, cwd=self._folder, start_new_session=True, **self._account
            )
        _wait(self, self._server, self._folder / "log")

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """End the server: SIGINT is its fast shutdown, SIGQUIT leaves what a crash leaves."""
        assert self._server
        self._server.send_signal(number)
        self._server.wait(30)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Let every process of the server stand still."""
        assert self._server
        first = psutil.Process(self._server.pid)
        first.suspend()  # before the others are counted, for it begins them
        group = [first, *first.children(recursive=True)]
        for each in group[1:]:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.suspend()
        try:
            yield
        finally:
            for each in group:
                with contextlib.suppress(psutil.NoSuchProcess):  # had ended, and waited for the first to notice
                    each.resume()

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
        if self._address:
            return f"postgresql+psycopg://postgres@{self._address}/{name}"
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
def running_postgres(address: str = "") -> Iterator[Postgres]:
    """Start a server, end it after; with `address` it listens there too, for everybody on its network.

    Skips where there is none installed.
    """
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
        if address:
            with (data / "pg_hba.conf").open("a") as access:
                access.write("host all all samenet trust\n")
        options = {
            "listen_addresses": address,
            "unix_socket_directories": folder,
            "fsync": "off",
            "max_connections": 60,
        }
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        postgres = Postgres(folder, [binaries / "postgres", "-D", data, *settings], account, address)
        try:
            postgres.start()
            yield postgres
        finally:
            postgres.stop()
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
