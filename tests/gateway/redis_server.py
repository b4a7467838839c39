"""A Redis of the tests' own: real, on a Unix socket in a temporary folder, gone afterwards."""

import contextlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.gateway.required import require


@contextlib.contextmanager
def running_redis() -> Iterator[str]:
    """Start a server, yield its address, end it after. Skips where there is none installed."""
    binary = require(shutil.which("redis-server"), "Redis", "apt-get install redis-server")
    with tempfile.TemporaryDirectory(prefix="godel-redis-") as folder:
        socket, log = Path(folder) / "redis.sock", Path(folder) / "log"
        options = {"--port": "0", "--unixsocket": socket, "--save": "", "--appendonly": "no", "--dir": folder}
        with log.open("wb") as output:
            server = subprocess.Popen(
                [binary, *(str(part) for option in options.items() for part in option)], stdout=output, stderr=output
            )
        try:
            client = redis.Redis(unix_socket_path=str(socket))
            end = time.monotonic() + 10
            while True:
                try:
                    client.ping()
                    break
                except redis.ConnectionError:
                    if server.poll() is not None or time.monotonic() > end:
                        pytest.fail(f"Redis did not start: {log.read_text()}")
                    time.sleep(0.02)
            client.close()
            yield f"redis+unix://{socket}"
        finally:
            server.terminate()
            server.wait(10)
