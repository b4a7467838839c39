"""One TorchServe instance: rendered settings, a Java process, readiness by its worker, an end that leaves nothing.

Java is started directly: the `torchserve` wrapper would die alone on SIGTERM and leave Java and workers behind.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from launcher.java import find_java
from launcher.processes import Child
from launcher.properties import ROOT, read_properties, render_properties

START_SECONDS: Final = 120
STOP_SECONDS: Final = 15
JAVA_OPTIONS: Final = ("-Xmx256m", "-XX:+UseSerialGC")
"""Measured: no loss of throughput, half the memory."""


class StartError(RuntimeError):
    """The instance did not become ready; the message holds the line of the log that says why."""


class TorchServe:
    """An instance with everything it writes under `run_dir`. Use it as a context manager, or `start` and `stop`."""

    def __init__(self, run_dir: Path, overrides: Mapping[str, str] | None = None) -> None:
        """`overrides` take the place of `config.properties`' own: `free_ports()`, another store, the model API."""
        self._run_dir = run_dir.resolve()
        self.properties = read_properties() | dict(overrides or {})
        self._child: Child | None = None

    @property
    def inference_url(self) -> str:
        """Where predictions are asked for."""
        return self.properties["inference_address"]

    @property
    def management_url(self) -> str:
        """Where models are described and managed."""
        return self.properties["management_address"]

    @property
    def metrics_url(self) -> str:
        """Where metrics are read."""
        return self.properties["metrics_address"]

    @property
    def model_name(self) -> str:
        """The name of the model loaded at start."""
        return self.properties["load_models"].split("=")[0]

    @property
    def logs(self) -> Path:
        """The folder of its logs: torchserve.log, worker.log, console.log."""
        return self._run_dir / "logs"

    @property
    def running(self) -> bool:
        """Whether the Java process lives."""
        return self._child is not None and self._child.exit_code is None

    @property
    def pid(self) -> int | None:
        """The id of the Java process."""
        return self._child.pid if self._child else None

    def start(self) -> None:
        """Start the process; `wait_ready` says when it serves. Raises JavaMissingError or StartError."""
        java = find_java()
        spec = find_spec("ts")
        if spec is None or not spec.submodule_search_locations:
            raise StartError("torchserve is not installed here; run `make setup`")
        site = Path(spec.submodule_search_locations[0]).parent
        temporary = self._run_dir / "tmp"
        for folder in (self.logs, temporary):
            folder.mkdir(parents=True, exist_ok=True)
        for log in self.logs.glob("*.log"):
            log.unlink()  # what is read out of them after a failure must be this run's
        settings = self._run_dir / "config.properties"
        settings.write_text(render_properties(self.properties), encoding="utf-8")
        command: list[str | Path] = [java, f"-Dmodel_server_home={site}", f"-Djava.io.tmpdir={temporary}"]
        command += [f"-Dlog4j.configurationFile=file://{ROOT / 'handler' / 'log4j2.xml'}", *JAVA_OPTIONS]
        command += ["-cp", f"{site}/ts/frontend/*", "org.pytorch.serve.ModelServer"]
        command += ["--python", sys.executable, "-f", settings, "-s", self.properties["model_store"], "-ncs"]
        environment = os.environ | {
            "LOG_LOCATION": str(self.logs),
            "METRICS_LOCATION": str(self.logs),
            "TMPDIR": str(temporary),
            "TEMP": str(temporary),
        }
        with (self.logs / "console.log").open("wb") as console:
            self._child = Child(command, environment=environment, cwd=self._run_dir, output=console)

    def wait_ready(self, *, seconds: float = START_SECONDS, give_up: Callable[[], bool] = lambda: False) -> None:
        """Return when a worker has loaded the model, or when `give_up` says so.

        Raises StartError as soon as it is known that it will not: the process ended, or the worker failed to load.
        """
        end = time.monotonic() + seconds
        while not give_up():
            if not self.running:
                raise StartError(f"TorchServe ended while it started: {self._reason()}")
            if self.worker_ready():
                return
            if failure := self._load_failure():
                raise StartError(f"the model cannot be loaded: {failure} (see {self.logs / 'worker.log'})")
            if time.monotonic() > end:
                raise StartError(f"TorchServe was not ready after {seconds:g} s: {self._reason()}")
            time.sleep(0.1)

    def worker_ready(self) -> bool:
        """Whether the management API lists a READY worker; `/ping` would say yes without one."""
        try:
            versions = self.manage("GET", f"/models/{self.model_name}")
        except OSError:
            return False
        return any(worker.get("status") == "READY" for worker in versions[0].get("workers", []))

    def manage(self, method: str, path: str) -> Any:
        """Call the management API and return its JSON. Raises OSError (urllib's) when it refuses or is not there."""
        request = urllib.request.Request(self.management_url + path, method=method)  # noqa: S310 - our own address
        with urllib.request.urlopen(request, timeout=30) as reply:  # noqa: S310
            return json.load(reply)

    def stop(self) -> None:
        """End it and its workers. Requests in flight are cut: whoever sends them must drain first."""
        if self._child is not None:
            self._child.end(STOP_SECONDS)
            self._child = None

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _load_failure(self) -> str | None:
        """Return the exception a worker ended with while it loaded, if one did."""
        lines = self._lines("worker.log")
        traceback = next((i for i, line in enumerate(lines) if "Traceback (most recent call last)" in line), None)
        if traceback is None:
            return None
        # Frames are indented; the first line that is not, after the thread's name, is the exception.
        messages = [line.split(" - ", 1)[-1] for line in lines[traceback + 1 :]]
        return next((message for message in messages if message and not message.startswith(" ")), None)

    def _reason(self) -> str:
        for name in ("torchserve.log", "console.log"):
            lines = [line for line in self._lines(name) if "ERROR" in line or "Exception" in line]
            if lines:
                return lines[-1]
        return f"no error in {self.logs}"

    def _lines(self, name: str) -> list[str]:
        path = self.logs / name
        return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
