"""TorchServe and the gateway as one thing: started, watched and stopped in the right order.

Start: TorchServe until its worker has loaded the model, then the gateway until a canary prompt is answered.
Stop: the gateway first, which lets requests in flight finish, then TorchServe, which could not.
"""

import os
import sys
import threading
import time
from typing import Final

from gateway.settings import Settings
from handler.contract.archive import read_metadata
from launcher.local_http import ask
from launcher.processes import Child
from launcher.properties import ROOT, check_port, check_ports
from launcher.pulse import Pulse
from launcher.torchserve import StartError, TorchServe

READY_SECONDS: Final = 60
DRAIN_MARGIN_SECONDS: Final = 5
"""What the gateway gets beyond its own grace before it is killed."""

HANG_SECONDS: Final = 10
"""A process that answers nothing for so long will not answer any more."""

TORCHSERVE: Final = "TorchServe"
GATEWAY: Final = "the gateway"


class Stack:
    """A TorchServe and the gateway before it."""

    def __init__(self, torchserve: TorchServe, settings: Settings, *, give_up: threading.Event | None = None) -> None:
        """`give_up`, when set by someone, ends every wait early."""
        self.torchserve = torchserve
        self._settings = settings
        self._give_up = give_up or threading.Event()
        self._gateway: Child | None = None
        self._pulses: dict[str, Pulse] = {}

    @property
    def gateway_url(self) -> str:
        """Where the bots are."""
        host = self._settings.host
        if host in ("0.0.0.0", "::"):  # noqa: S104 - every address, this machine's own among them
            host = "127.0.0.1"
        return f"http://{f'[{host}]' if ':' in host else host}:{self._settings.port}"

    @property
    def asks_for_keys(self) -> bool:
        """Whether the gateway wants a key of its callers."""
        return self._settings.admin_key is not None

    @property
    def gateway_pid(self) -> int | None:
        """The id of the gateway's process."""
        return self._gateway.pid if self._gateway else None

    def check(self) -> None:
        """Look for what would keep it from starting. Raises ArchiveError or PortBusyError."""
        for archive in {self.torchserve.archive, self._settings.tokenizer}:
            if archive.suffix == ".mar":
                read_metadata(archive)
        check_ports(self.torchserve.properties)
        check_port(self._settings.host, self._settings.port, "GODEL_PORT in the environment")

    def start(self) -> None:
        """Return when a canary prompt has been answered, or when given up; `check` it first.

        Raises JavaMissingError or StartError; `stop` is then still to be called.
        """
        self.start_torchserve()
        if not self._give_up.is_set():
            self.start_gateway()

    def start_torchserve(self) -> None:
        """Start TorchServe alone and wait for its worker."""
        self.torchserve.start()
        self.torchserve.wait_ready(give_up=self._give_up.is_set)
        self._feel(TORCHSERVE, f"{self.torchserve.inference_url}/ping")

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
        if self.torchserve.key_file is not None:
            environment["GODEL_TORCHSERVE_KEYS"] = str(self.torchserve.key_file)
        self._gateway = Child([sys.executable, "-m", "gateway"], environment=environment, cwd=ROOT)
        self._feel(GATEWAY, f"{self.gateway_url}/livez")
        end = time.monotonic() + READY_SECONDS
        while not self._give_up.is_set():
            if self._gateway.exit_code is not None:
                raise StartError("the gateway ended while it started; its last line above says why")
            if not self.torchserve.running:
                raise StartError(f"TorchServe ended before it had answered a prompt; see {self.torchserve.logs}")
            if answers(f"{self.gateway_url}/readyz"):
                return
            if time.monotonic() > end:
                raise StartError(f"no canary prompt was answered within {READY_SECONDS} s; see {self.torchserve.logs}")
            time.sleep(0.1)

    def failed(self) -> tuple[str, str] | None:
        """Return the name of a process that has failed and how: it ended by itself, or answers no more."""
        if not self.torchserve.running:
            return TORCHSERVE, "ended unexpectedly"
        if self._gateway is None or self._gateway.exit_code is not None:
            return GATEWAY, "ended unexpectedly"
        for name, pulse in self._pulses.items():
            if pulse.silent_seconds >= HANG_SECONDS:
                return name, f"has not answered for {HANG_SECONDS} s"
        return None

    def revive(self, name: str) -> None:
        """Start the process called `name` again, and end what is left of it. Raises as `start` does."""
        if pulse := self._pulses.pop(name, None):
            pulse.stop()
        if name == TORCHSERVE:
            self.torchserve.stop(lambda: True)
            try:
                self.start_torchserve()
            except StartError:
                self.torchserve.stop(lambda: True)
                raise
        else:
            if self._gateway is not None:
                self._gateway.end(0)
            self.start_gateway()

    def stop(self, *, hurry: threading.Event | None = None) -> None:
        """Drain the gateway, then end TorchServe; `hurry`, once set, ends all patience."""
        impatient = hurry.is_set if hurry else lambda: False
        for pulse in self._pulses.values():
            pulse.stop()
        if self._gateway is not None:
            self._gateway.end(self._settings.shutdown_grace + DRAIN_MARGIN_SECONDS, impatient)
            self._gateway = None
        self.torchserve.stop(impatient)

    def _feel(self, name: str, url: str) -> None:
        self._pulses[name] = Pulse(url)


def answers(url: str) -> bool:
    """Whether `url` answers with 200, a canary prompt's time included."""
    try:
        with ask(url, seconds=15) as reply:
            return reply.status == 200
    except (OSError, ValueError):
        return False
