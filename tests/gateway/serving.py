"""Servers for tests: any ASGI application on a loopback port, and the gateway as a process of its own."""

import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import uvicorn

from gateway.server import bind

ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def running(app: Any, **options: Any) -> Iterator[str]:
    """Serve `app` in a thread on a free port; yield its address; stop it after."""
    with contextlib.closing(bind("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, **{"log_config": None, "access_log": False, "http": "h11"} | options)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


class GatewayProcess:
    """`python -m gateway` on a free port, its log collected line by line."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("GODEL_")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gateway"],
            cwd=ROOT,
            env=inherited | {"GODEL_PORT": "0", **environment},
            stderr=subprocess.PIPE,
            text=True,
        )
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.url = self.wait_for(r"listening on (http://[^\s\"]+)")

    @property
    def log(self) -> str:
        """Everything logged so far."""
        with self._changed:
            return "".join(self._lines)

    def wait_for(self, pattern: str) -> str:
        """Return the first group (or all) of the first match in the log, once it is there."""
        with self._changed:
            found = self._changed.wait_for(lambda: re.search(pattern, "".join(self._lines)) or self._ended, timeout=60)
        if not isinstance(found, re.Match):
            raise AssertionError(f"{pattern!r} is not in the log:\n{self.log}")
        return str(found.group(1) if found.re.groups else found.group())

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def kill(self) -> None:
        """Send SIGKILL."""
        self._process.kill()

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._process.terminate()

    def wait(self) -> int:
        """Return the exit status, once it has one."""
        status = self._process.wait(timeout=20)
        self._reader.join()
        return status

    def close(self) -> None:
        """End the process, whatever its state."""
        if self._process.poll() is None:
            self._process.kill()
        self.wait()
        if self._process.stderr:
            self._process.stderr.close()

    def _read(self) -> None:
        for line in self._process.stderr or ():
            with self._changed:
                self._lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()
