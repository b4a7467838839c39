"""`launcher serve`, what `make serve` runs, as a process under test."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import psutil

from launcher.properties import ROOT, free_ports, read_properties, render_properties

DEAD_PROXY = "http://127.0.0.1:9"
"""Where nobody listens. Many machines name a proxy; it has no part in what goes on between processes of one."""


class Served:
    """A served stack, and what the launcher has printed. Its database is in `folder`.

    Ports and run folder are its own too where it serves an `archive`; without one it is what the checkout serves.
    """

    def __init__(self, folder: Path, archive: Path | None = None, environment: Mapping[str, str] | None = None) -> None:
        self._options: list[str] = []
        if archive is not None:
            own = {"model_store": str(archive.parent), "load_models": f"godel={archive.name}"}
            config = folder / "own.properties"
            config.write_text(render_properties(read_properties() | free_ports() | own))
            self._options = ["--run-dir", str(folder / "run"), "--config", str(config)]
        self.database_url = f"sqlite+aiosqlite:///{folder}/godel.db"
        own_environment = {"GODEL_PORT": "0", "GODEL_DATABASE_URL": self.database_url, "http_proxy": DEAD_PROXY}
        self.process = subprocess.Popen(
            self._command("serve"),
            cwd=ROOT,
            env=os.environ | own_environment | dict(environment or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self._seen = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, pattern: str, after: int = 0) -> str:
        """Return the first line that matches, of those `after` so many."""

        def found() -> str | None:
            return next((line for line in self.lines[after:] if re.search(pattern, line)), None)

        with self._seen:
            assert self._seen.wait_for(lambda: found() or not self._reader.is_alive(), 90), self.lines
            line = found()
        assert line, self.lines
        return line

    @property
    def url(self) -> str:
        """Where the gateway is, once it is ready."""
        return self.wait_for("^ready: ").split()[1]

    def family(self) -> list[psutil.Process]:
        """Return every process below the launcher."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def member(self, word: str) -> psutil.Process:
        """Return the process whose command line holds `word`."""
        return next(each for each in self.family() if word in " ".join(each.cmdline()))

    def command(self, name: str) -> subprocess.CompletedProcess[str]:
        """Run another command of the launcher's on it."""
        return subprocess.run(self._command(name), cwd=ROOT, capture_output=True, text=True, check=False, timeout=100)

    def close(self) -> None:
        """End everything, whatever its state."""
        family = self.family() if self.process.poll() is None else []
        self.process.kill()
        self.process.wait()
        for each in family:
            if each.is_running():
                each.kill()
        psutil.wait_procs(family, timeout=20)

    def _command(self, name: str) -> list[str]:
        return [sys.executable, "-m", "launcher", name, *self._options]

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            with self._seen:
                self.lines.append(line.rstrip())
                self._seen.notify_all()
        with self._seen:
            self._seen.notify_all()
