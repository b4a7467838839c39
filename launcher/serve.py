"""`make serve`: a stack in the foreground. A process that dies or hangs is started again, a few times, ever later.

SIGTERM, SIGINT (Ctrl-C) and SIGHUP end it in order, with exit code 0; a second one hurries.
"""

import contextlib
import os
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Final
from urllib.parse import quote

from pydantic import ValidationError

from gateway.settings import Settings
from handler.contract.archive import ArchiveError
from launcher.java import JavaMissingError
from launcher.pidfile import AlreadyRunningError, find_serving, held_pidfile
from launcher.properties import CONFIG, ROOT, PortBusyError, PropertiesError
from launcher.stack import Stack as Stack  # also the name under which those who start one know it
from launcher.stack import answers
from launcher.torchserve import StartError, TorchServe

RUN_DIR: Final = ROOT / "build" / "run"
PIDFILE: Final = "serve.pid"
RESTARTS: Final = 5
RESTART_WINDOW_SECONDS: Final = 120
LONGEST_BACK_OFF_SECONDS: Final = 8

EXPECTED_ERRORS: Final = (
    AlreadyRunningError,
    ArchiveError,
    JavaMissingError,
    PortBusyError,
    PropertiesError,
    StartError,
)
"""What a person can mend; printed as one line."""


class SettingsError(PropertiesError):
    """A GODEL_... variable cannot be used; the message names it."""


def serve(run_dir: Path = RUN_DIR, config: Path = CONFIG) -> int:
    """Run until told to stop; return the exit code. Errors a person can mend are printed as one line."""
    stopping, hurry = threading.Event(), threading.Event()
    _heed_signals(stopping, hurry)
    try:
        torchserve = TorchServe(run_dir, config=config)
        settings = gateway_settings(torchserve)
        stack = Stack(torchserve, settings, give_up=stopping)
        with held_pidfile(run_dir / PIDFILE, stack.gateway_url), _stopped_at_the_end(stack, hurry):
            stack.check()
            _say("starting TorchServe and the gateway ...")
            stack.start()
            if not stopping.is_set():
                _greet(stack)
                _watch(stack, stopping)
            _say("stopping; requests in flight may finish (a second Ctrl-C hurries) ...")
    except EXPECTED_ERRORS as error:
        _say(f"serve: {error}", error=True)
        return 1
    _say("stopped")
    return 0


def status(run_dir: Path = RUN_DIR) -> int:
    """Print what is served from this checkout; return 0 when it is ready, 4 when it is not, 3 when nothing is."""
    serving = find_serving(run_dir / PIDFILE)
    if serving is None:
        _say("nothing is being served from this checkout")
        return 3
    ready = answers(f"{serving.url}/readyz")
    _say(f"{'ready' if ready else 'not ready'}: {serving.url} (process {serving.process.pid})")
    return 0 if ready else 4


def gateway_settings(torchserve: TorchServe) -> Settings:
    """Return the gateway's settings: the environment's, and where it is silent what belongs to `torchserve`.

    Raises SettingsError.
    """
    try:
        settings = Settings()
    except ValidationError as error:
        problems = (f"GODEL_{item['loc'][0]}".upper() + f": {item['msg']}" for item in error.errors())
        raise SettingsError("; ".join(problems)) from error
    # Prompts are counted by the tokenizer of the archive that is really served.
    chosen = "tokenizer" in settings.model_fields_set
    changes: dict[str, object] = {"tokenizer": ROOT / settings.tokenizer if chosen else torchserve.archive}
    if settings.port == 0:
        with socket.create_server((settings.host, 0)) as free:
            changes["port"] = free.getsockname()[1]
    return settings.model_copy(update=changes)


def _heed_signals(stopping: threading.Event, hurry: threading.Event) -> None:
    def on_signal(_number: int, _frame: FrameType | None) -> None:
        if stopping.is_set():
            hurry.set()
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Under nohup a hang-up is to be ignored. SIGINT is ours even where a script's `&` has switched it off.
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, on_signal)


@contextlib.contextmanager
def _stopped_at_the_end(stack: Stack, hurry: threading.Event) -> Iterator[None]:
    try:
        yield
    finally:
        stack.stop(hurry=hurry)


def _watch(stack: Stack, stopping: threading.Event) -> None:
    """Return when told to stop; start again what fails. Raises StartError when it fails too often."""
    deaths: deque[float] = deque(maxlen=RESTARTS)
    while not stopping.wait(0.2):
        for warning in stack.torchserve.new_warnings():
            _say(f"TorchServe {warning}", error=True)
        failure = stack.failed()
        if failure is None:
            continue
        name, how = failure
        now = time.monotonic()
        recent = sum(now - death < RESTART_WINDOW_SECONDS for death in deaths)
        if recent == RESTARTS:
            raise StartError(
                f"{name} keeps failing: {RESTARTS + 1} times in {now - deaths[0]:.0f} s; see {stack.torchserve.logs}"
            )
        deaths.append(now)
        pause = min(2**recent - 1, LONGEST_BACK_OFF_SECONDS)
        _say(f"{name} {how}; starting it again{f' in {pause} s' if pause else ''}", error=True)
        if stopping.wait(pause):
            return
        try:
            stack.revive(name)
        except StartError as error:
            _say(f"{name} could not be started: {error}", error=True)
            continue  # it counts as a death, and there are only so many of them
        if not stopping.is_set():
            _say(f"{name} is back")


def _greet(stack: Stack) -> None:
    """Print where the bots are and one line to try."""
    url, logs = stack.gateway_url, stack.torchserve.logs
    shown = logs.relative_to(ROOT) if logs.is_relative_to(ROOT) else logs
    knowledge = quote("Cricket is a sport played between two teams of eleven players each.")
    question = quote("How many players are in each team?")
    key = ' -H "X-API-Key: $GODEL_ADMIN_KEY"' if stack.asks_for_keys else ""
    _say(
        f"\nready: {url}   (open it in a browser; API: {url}/docs, logs: {shown})\n"
        "or try it in another terminal:\n"
        f"  curl -s -w '\\n'{key} {url}/cricket/context/{knowledge} {url}/cricket/chat/{question}\n"
    )


def _say(text: str, *, error: bool = False) -> None:
    """Print. Whoever read it may be gone (a closed terminal, a pipe's dead end): no reason to end in disorder."""
    with contextlib.suppress(OSError):
        os.write(2 if error else 1, f"{text}\n".encode())
