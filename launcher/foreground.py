"""`python -m launcher.foreground`: one TorchServe alone, in the foreground of a container.

What it writes stands under one folder; its logs go to standard output too. SIGTERM lets requests in flight finish, then
ends it with exit code 0. If TorchServe ends by itself or cannot load the model, the reason is the last line and the
exit code 1: starting it again is for whoever runs the container.
"""

import argparse
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Final
from urllib.parse import urlsplit

import psutil

from handler.contract.archive import ArchiveError, read_metadata
from launcher.follow import Follower
from launcher.java import JavaMissingError
from launcher.logs import CONSOLE, TORCHSERVE, WORKER
from launcher.properties import CONFIG, PortBusyError, PropertiesError, check_ports, read_properties
from launcher.torchserve import StartError, TorchServe

START_SECONDS: Final = 600
"""A large archive on a slow volume; a model that cannot be loaded is known of at once."""

GRACE_SECONDS: Final = 65
"""A request's deadline (the gateway's GODEL_REQUEST_TIMEOUT, 60 s), what it may be late, and a little more."""

QUIET_LOOKS: Final = 3
_LOOK_SECONDS: Final = 0.1

EXPECTED_ERRORS: Final = (ArchiveError, JavaMissingError, PortBusyError, PropertiesError, StartError)
"""What a person can mend; printed as one line."""


def main(arguments: list[str] | None = None) -> int:
    """Serve until told to stop; return the exit code."""
    options = _parser().parse_args(arguments)
    stopping, hurry = threading.Event(), threading.Event()
    _heed_signals(stopping, hurry)
    torchserve = None
    try:
        torchserve = TorchServe(
            options.run_dir, overrides(options.config, options.host, options.archive), config=options.config
        )
        read_metadata(torchserve.archive)
        check_ports(torchserve.properties)
        torchserve.start()
        with Follower([torchserve.logs / name for name in (CONSOLE, TORCHSERVE, WORKER)]):
            _run(torchserve, stopping, hurry, options.grace)
    except EXPECTED_ERRORS as error:
        print(f"torchserve: {error}", file=sys.stderr, flush=True)
        return 1
    finally:
        if torchserve is not None:
            torchserve.stop(hurry.is_set)
    print("stopped", flush=True)
    return 0


def overrides(config: Path, host: str | None, archive: Path | None) -> dict[str, str]:
    """Return what takes the place of settings in `config`: another host for its addresses, another archive.

    Raises PropertiesError when `config` cannot be used.
    """
    changed: dict[str, str] = {}
    if host is not None:
        for name, value in read_properties(config).items():
            if name in ("inference_address", "management_address", "metrics_address"):
                parts = urlsplit(value)
                shown = f"[{host}]" if ":" in host else host
                changed[name] = f"{parts.scheme}://{shown}:{parts.port}"
    if archive is not None:
        name = read_properties(config)["load_models"].partition("=")[0]
        store = archive.absolute().parent
        changed |= {"model_store": str(store), "load_models": f"{name}={archive.name}"}
        changed["allowed_urls"] = f"file://{store}/.*"
    return changed


def _run(torchserve: TorchServe, stopping: threading.Event, hurry: threading.Event, grace: float) -> None:
    """Return when told to stop and drained. Raises StartError when it does not start, or ends by itself."""
    torchserve.wait_ready(seconds=START_SECONDS, give_up=stopping.is_set)
    if not stopping.is_set():
        print(f"ready: {torchserve.model_name} at {torchserve.inference_url}", flush=True)
    while not stopping.wait(0.2):
        if not torchserve.running:
            raise StartError("TorchServe ended unexpectedly; the lines above say why")
    print("stopping; requests in flight may finish ...", flush=True)
    if left := drain(lambda: connections(torchserve), grace, hurry.is_set):
        print(f"{left} connections were still open after {grace:g} s and are cut", file=sys.stderr, flush=True)


def connections(torchserve: TorchServe) -> int:
    """Return how many connections there are to the inference port. A request in flight has one."""
    port = urlsplit(torchserve.inference_url).port
    try:
        found = psutil.Process(torchserve.pid).net_connections("tcp")
    except psutil.Error:
        return 0  # it has ended
    return sum(each.status != psutil.CONN_LISTEN and bool(each.laddr) and each.laddr.port == port for each in found)


def drain(count: Callable[[], int], seconds: float, hurry: Callable[[], bool]) -> int:
    """Return 0 when `count` has been 0 for a moment, or what it is after `seconds`, or once `hurry` says so.

    TorchServe itself cannot drain: it cuts what is in flight as soon as it is asked to end, and cannot be told to
    refuse what is new. That nothing new comes is up to who sends it here, or the load balancer before it.
    """
    end, quiet = time.monotonic() + seconds, 0
    while quiet < QUIET_LOOKS:
        left = count()
        quiet = 0 if left else quiet + 1
        if left and (hurry() or time.monotonic() > end):
            return left
        time.sleep(_LOOK_SECONDS)
    return 0


def _heed_signals(stopping: threading.Event, hurry: threading.Event) -> None:
    def on_signal(_number: int, _frame: FrameType | None) -> None:
        if stopping.is_set():
            hurry.set()
        stopping.set()

    # The first process of a container gets no signal that it has no handler for.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m launcher.foreground", description="Serve a model by TorchServe.")
    parser.add_argument("--run-dir", type=Path, required=True, help="where it writes: logs, unpacked archive, socket")
    parser.add_argument("--config", type=Path, default=CONFIG, help="TorchServe's settings (config.properties)")
    parser.add_argument(
        "--host",
        help="listen here instead of where the settings say, with inference, management"
        " and metrics; 0.0.0.0 for every address. Let nobody but the gateway reach management",
    )
    parser.add_argument("--archive", type=Path, help="the .mar to serve instead of the settings' own")
    parser.add_argument(
        "--grace",
        type=float,
        default=GRACE_SECONDS,
        metavar="SECONDS",
        help=f"what requests in flight get after SIGTERM ({GRACE_SECONDS})",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
