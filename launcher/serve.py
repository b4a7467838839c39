"""`make serve`: TorchServe and the gateway in the foreground, started, watched and stopped in the right order.

Start: TorchServe until its worker has loaded the model, then the gateway until a canary prompt is answered.
Stop: the gateway first, which lets requests in flight finish, then TorchServe, which could not.
A process that dies is started again, a few times; if it keeps dying, everything ends with one line that says so.
"""

import contextlib
import os
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Final

from gateway.settings import Settings
from handler.contract.archive import ArchiveError, read_metadata
from launcher.java import JavaMissingError
from launcher.pidfile import AlreadyRunningError, held_pidfile
from launcher.processes import Child
from launcher.properties import ROOT, PortBusyError, check_port, check_ports
from launcher.torchserve import StartError, TorchServe

RUN_DIR: Final = ROOT / "build" / "run"
PIDFILE: Final = RUN_DIR / "serve.pid"
READY_SECONDS: Final = 60
RESTARTS: Final = 5
RESTART_WINDOW_SECONDS: Final = 120
DRAIN_MARGIN_SECONDS: Final = 5
"""What the gateway gets beyond its own grace before it is killed."""

EXPECTED_ERRORS: Final = (ArchiveError, JavaMissingError, AlreadyRunningError, PortBusyError, StartError)
"""What a person can mend; printed as one line."""


class Stack:
    """TorchServe and the gateway as one thing to start, watch and stop."""

    def __init__(self, torchserve: TorchServe, settings: Settings, *, give_up: threading.Event | None = None) -> None:
        """`give_up`, when set by someone, ends every wait early."""
        self.torchserve = torchserve
        self._settings = settings
        self._give_up = give_up or threading.Event()
        self._gateway: Child | None = None

    @property
    def gateway_url(self) -> str:
        """Where the bots are."""
        host = "127.0.0.1" if self._settings.host in ("0.0.0.0", "::") else self._settings.host  # noqa: S104
        return f"http://{host}:{self._settings.port}"

    @property
    def gateway_pid(self) -> int | None:
        """The id of the gateway's process."""
        return self._gateway.pid if self._gateway else None

    def start(self) -> None:
        """Return when a canary prompt has been answered, or when given up. Raises one of EXPECTED_ERRORS."""
        read_metadata(self._settings.tokenizer)
        check_ports(self.torchserve.properties)
        check_port(self._settings.host, self._settings.port, "GODEL_PORT in the environment")
        self.start_torchserve()
        if not self._give_up.is_set():
            self.start_gateway()

    def start_torchserve(self) -> None:
        """Start TorchServe alone and wait for its worker."""
        self.torchserve.start()
        self.torchserve.wait_ready(give_up=self._give_up.is_set)

    def start_gateway(self) -> None:
        """Start the gateway alone and wait until it is ready."""
        environment = os.environ | {
            "GODEL_HOST": self._settings.host,
            "GODEL_PORT": str(self._settings.port),
            "GODEL_DATABASE_URL": self._settings.database_url,
            "GODEL_INFERENCE_URL": self.torchserve.inference_url,
            "GODEL_MANAGEMENT_URL": self.torchserve.management_url,
            "GODEL_MODEL_NAME": self.torchserve.model_name,
            "GODEL_TOKENIZER": str(self._settings.tokenizer),
        }
        self._gateway = Child([sys.executable, "-m", "gateway"], environment=environment, cwd=ROOT)
        end = time.monotonic() + READY_SECONDS
        while not self._give_up.is_set():
            if self._gateway.exit_code is not None:
                raise StartError("the gateway ended while it started; its last line above says why")
            if _answers(f"{self.gateway_url}/readyz"):
                return
            if time.monotonic() > end:
                raise StartError(f"no canary prompt was answered within {READY_SECONDS} s; see {self.torchserve.logs}")
            time.sleep(0.1)

    def dead(self) -> str | None:
        """Return the name of a process that has ended by itself, or None."""
        if not self.torchserve.running:
            return "TorchServe"
        if self._gateway is None or self._gateway.exit_code is not None:
            return "the gateway"
        return None

    def revive(self, name: str) -> None:
        """Start the process called `name` again."""
        if name == "TorchServe":
            self.torchserve.stop()
            self.start_torchserve()
        else:
            self.start_gateway()

    def stop(self, *, hurry: threading.Event | None = None) -> None:
        """Drain the gateway, then end TorchServe; `hurry`, once set, ends the draining."""
        if self._gateway is not None:
            self._gateway.terminate()
            end = time.monotonic() + self._settings.shutdown_grace + DRAIN_MARGIN_SECONDS
            while self._gateway.exit_code is None and time.monotonic() < end and not (hurry and hurry.is_set()):
                time.sleep(0.05)
            self._gateway.end(0)
            self._gateway = None
        self.torchserve.stop()


def serve() -> int:
    """Run until SIGINT or SIGTERM; return the exit code. Errors a person can mend are printed as one line."""
    stopping, hurry = threading.Event(), threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        if stopping.is_set():
            hurry.set()
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    settings = Settings()
    stack = Stack(TorchServe(RUN_DIR), settings, give_up=stopping)
    try:
        with held_pidfile(PIDFILE), _stopped_at_the_end(stack, hurry):
            print("starting TorchServe and the gateway ...", flush=True)
            stack.start()
            if not stopping.is_set():
                _greet(stack)
            _watch(stack, stopping)
    except EXPECTED_ERRORS as error:
        print(f"serve: {error}", file=sys.stderr, flush=True)
        return 1
    print("stopped", flush=True)
    return 0


@contextlib.contextmanager
def _stopped_at_the_end(stack: Stack, hurry: threading.Event) -> Iterator[None]:
    try:
        yield
    finally:
        print("stopping: requests in flight may finish (again to hurry) ...", flush=True)
        stack.stop(hurry=hurry)


def _watch(stack: Stack, stopping: threading.Event) -> None:
    """Return when told to stop; start again what dies. Raises StartError when it dies too often."""
    deaths: deque[float] = deque(maxlen=RESTARTS)
    while not stopping.wait(0.2):
        name = stack.dead()
        if name is None:
            continue
        now = time.monotonic()
        if len(deaths) == RESTARTS and now - deaths[0] < RESTART_WINDOW_SECONDS:
            raise StartError(f"{name} keeps dying: {RESTARTS + 1} times in {now - deaths[0]:.0f} s; see {RUN_DIR}")
        deaths.append(now)
        print(f"{name} ended unexpectedly; starting it again", file=sys.stderr, flush=True)
        stack.revive(name)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=15) as reply:  # noqa: S310 - our own gateway
            return bool(reply.status == 200)
    except OSError:
        return False


def _greet(stack: Stack) -> None:
    """Print where the bots are and one line to try."""
    url = stack.gateway_url
    print(
        f"\nready: {url}   (API: {url}/docs, logs: {_shown(stack.torchserve.logs)})\n"
        "try it in another terminal:\n"
        f"  curl -s {url}/cricket/context/Cricket%20is%20a%20sport%20played%20between%20two%20teams%20of%20eleven%20"
        f"players%20each. {url}/cricket/chat/How%20many%20players%20are%20in%20a%20team%3F\n",
        flush=True,
    )


def _shown(path: Path) -> Path:
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
