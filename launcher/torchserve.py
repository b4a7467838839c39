"""One TorchServe instance: rendered settings, a Java process, readiness by its worker, an end that leaves nothing.

Java is started directly: the `torchserve` wrapper would die alone on SIGTERM and leave Java and workers behind.

    with TorchServe(Path("build/mine"), free_ports() | {"enable_model_api": "true"}) as torchserve:
        httpx.post(f"{torchserve.inference_url}/predictions/{torchserve.model_name}", content=...)
"""

import json
import os
import shutil
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from launcher.java import find_java
from launcher.local_http import ask
from launcher.logs import CONSOLE, Logs
from launcher.processes import Child
from launcher.properties import CONFIG, ROOT, loaded_model, read_properties, render_properties

START_SECONDS: Final = 120
STOP_SECONDS: Final = 15
TRACEBACK_SECONDS: Final = 2
"""How far a worker's traceback may lag behind the news of its death; they travel in different threads."""

NICENESS: Final = 5
"""The model gives way to the gateway: where cores are full of its products, probes were answered late otherwise."""

JAVA_OPTIONS: Final = ("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""Measured: more throughput, half the memory. TorchServe waits more than it computes: compiling it twice, the second
time well, takes from the engine's cores for hundreds of requests what it never earns back."""

_LONGEST_SOCKET: Final = 107
_LONGEST_SOCKET_NAME: Final = len("/.ts.sock.65535")


class StartError(RuntimeError):
    """The instance did not become ready; the message holds the line of the log that says why."""


class TorchServe:
    """An instance with everything it writes under `run_dir`. Use it as a context manager, or `start` and `stop`."""

    def __init__(self, run_dir: Path, overrides: Mapping[str, str] | None = None, *, config: Path = CONFIG) -> None:
        """`overrides` take the place of `config`'s own: `free_ports()`, another store, the model API.

        Raises PropertiesError when the settings cannot be used.
        """
        self._run_dir = run_dir.resolve()
        self.properties = read_properties(config) | dict(overrides or {})
        self.model_name, self.archive = loaded_model(self.properties)
        """The model loaded at start, and what it is loaded from."""
        self.logs = self._run_dir / "logs"
        """The folder of torchserve.log, worker.log and console.log."""
        self._log = Logs(self.logs)
        self._child: Child | None = None
        self._temporary: Path | None = None

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
    def key_file(self) -> Path | None:
        """Where it writes its keys as it starts; None when it asks for none."""
        off = self.properties.get("disable_token_authorization") == "true"
        return None if off else self._run_dir / "key_file.json"

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
        self._log.clear()
        self._temporary = temporary = self._temporary_folder()
        settings = self._run_dir / "config.properties"
        settings.write_text(render_properties(self.properties), encoding="utf-8")
        command: list[str | Path] = [java, f"-Dmodel_server_home={site}", f"-Djava.io.tmpdir={temporary}"]
        command += [f"-Dlog4j.configurationFile={(ROOT / 'handler' / 'log4j2.xml').as_uri()}", *JAVA_OPTIONS]
        command += ["-cp", f"{site}/ts/frontend/*", "org.pytorch.serve.ModelServer"]
        command += ["--python", sys.executable, "-f", settings, "-s", self.properties["model_store"], "-ncs"]
        environment = os.environ | {
            "LOG_LOCATION": str(self.logs),
            "METRICS_LOCATION": str(self.logs),
            "TMPDIR": str(temporary),
            "TEMP": str(temporary),
        }
        if not sys.platform.startswith("darwin"):
            environment["LC_ALL"] = "C.UTF-8"  # where Java takes the names of files from; they may be anybody's
        with (self.logs / CONSOLE).open("wb") as console:
            self._child = Child(command, environment=environment, cwd=self._run_dir, output=console, niceness=NICENESS)

    def wait_ready(self, *, seconds: float = START_SECONDS, give_up: Callable[[], bool] = lambda: False) -> None:
        """Return when a worker has loaded the model, or when `give_up` says so.

        Raises StartError as soon as it is known that it will not: the process ended, or the model failed to load.
        """
        end = time.monotonic() + seconds
        while not give_up():
            if not self.running:
                raise StartError(f"TorchServe ended while it started: {self._last_error()}")
            if self.worker_ready():
                return
            if self._log.says_load_failed():
                raise StartError(f"the model cannot be loaded: {self._load_failure()} (see {self.logs})")
            if time.monotonic() > end:
                raise StartError(f"TorchServe was not ready after {seconds:g} s: {self._last_error()}")
            time.sleep(0.1)

    def worker_ready(self) -> bool:
        """Whether the management API lists a READY worker; `/ping` would say yes without one."""
        try:
            versions = self.manage("GET", f"/models/{self.model_name}")
        except (OSError, ValueError):
            return False
        return any(worker.get("status") == "READY" for worker in versions[0].get("workers", []))

    def manage(self, method: str, path: str) -> Any:
        """Call the management API and return its JSON. Raises OSError (urllib's) when it refuses or is not there.

        Raises ValueError as well while it is writing its keys.
        """
        request = urllib.request.Request(self.management_url + path, method=method)  # noqa: S310 - our own address
        if self.key_file is not None:
            key = json.loads(self.key_file.read_text(encoding="utf-8"))["management"]["key"]
            request.add_header("Authorization", f"Bearer {key}")
        with ask(request, seconds=30) as reply:
            return json.load(reply)

    def new_warnings(self) -> list[str]:
        """Return what it has warned of since the last call."""
        return self._log.new_warnings()

    def stop(self, hurry: Callable[[], bool] = lambda: False) -> None:
        """End it and its workers. Requests in flight are cut: whoever sends them must drain first."""
        if self._child is not None:
            self._child.end(STOP_SECONDS, hurry)
            self._child = None
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = None

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

    def _temporary_folder(self) -> Path:
        """Return an empty folder for unpacked archives and the worker's socket.

        In the run folder, or among the system's own where the path of a socket would exceed what Unix allows.
        """
        here = self._run_dir / "tmp"
        if len(os.fsencode(here)) + _LONGEST_SOCKET_NAME > _LONGEST_SOCKET:
            return Path(tempfile.mkdtemp(prefix="godel-"))
        shutil.rmtree(here, ignore_errors=True)  # a killed TorchServe leaves its unpacked archive
        here.mkdir(parents=True)
        return here

    def _load_failure(self) -> str:
        end = time.monotonic() + TRACEBACK_SECONDS
        while time.monotonic() < end:
            if error := self._log.load_error():
                return error
            time.sleep(0.05)
        return self._log.last_error() or "its worker ended without saying why; killed for want of memory?"

    def _last_error(self) -> str:
        return self._log.last_error() or self._log.last_words() or f"no error was logged; see {self.logs}"
