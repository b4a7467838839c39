"""A Redis of the tests' own: real, on a Unix socket in a temporary folder, gone afterwards."""

import contextlib
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.gateway.required import require


class RedisServer:
    """A server that can be stopped, started again and frozen; what it held is lost with it."""

    def __init__(self, folder: Path, address: str = "") -> None:
        self._binary = require(shutil.which("redis-server"), "Redis", "apt-get install redis-server")
        self._folder, self._socket = folder, folder / "redis.sock"
        self._server: subprocess.Popen[bytes] | None = None
        self._address = address
        self.url = f"redis://{address}:6379" if address else f"redis+unix://{self._socket}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = {"--port": "0", "--unixsocket": self._socket, "--save": "", "--appendonly": "no"}
        options["--dir"] = self._folder
        if self._address:
            options |= {"--port": "6379", "--bind": self._address, "--protected-mode": "no"}
        with (self._folder / "log").open("wb") as output:
            command = [self._binary, *(str(part) for option in options.items() for part in option)]
            self._server = subprocess.Popen(command, stdout=output, stderr=output)
        client = redis.Redis(unix_socket_path=str(self._socket))
        end = time.monotonic() + 10
        while True:
            try:
                client.ping()
                break
            except redis.ConnectionError:
                if self._server.poll() is not None or time.monotonic() > end:
                    pytest.fail(f"Redis did not start: {(self._folder / 'log').read_text()}")
                time.sleep(0.02)
        client.close()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it."""
        if self._server:
            self._server.send_signal(number)
            self._server.wait(10)
            self._server = None

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Let it stand still."""
        assert self._server
        self._server.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._server.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def running_redis_server(address: str = "") -> Iterator[RedisServer]:
    """Start a server, end it after. Skips where there is none installed."""
    with tempfile.TemporaryDirectory(prefix="godel-redis-") as folder:
        server = RedisServer(Path(folder), address)
        try:
            server.start()
            yield server
        finally:
            server.stop()


@contextlib.contextmanager
def running_redis(address: str = "") -> Iterator[str]:
    """Start a server, yield its address, end it after; with `address` it listens there too, for its network.

    Skips where there is none installed.
    """
    with running_redis_server(address) as server:
        yield server.url
