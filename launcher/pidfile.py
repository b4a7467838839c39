"""The file that says which process serves and where, so that `make stop` ends that one and no other."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from launcher.properties import ROOT

STOP_SECONDS: Final = 90
_MARK: Final = ("-m", "launcher", "serve")


class AlreadyRunningError(RuntimeError):
    """Another process serves from this checkout."""


@dataclass(frozen=True)
class Serving:
    """A living server."""

    process: psutil.Process
    url: str


@contextlib.contextmanager
def held_pidfile(path: Path, url: str) -> Iterator[None]:
    """Hold `path` with this process's id and `url`. Raises AlreadyRunningError when a living server holds it."""
    if serving := find_serving(path):
        raise AlreadyRunningError(
            f"already serving from this checkout (process {serving.process.pid}); `make stop` ends it"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    try:
        with path.open("x", encoding="ascii") as file:  # "x": of two that start at once, one gets it
            file.write(f"{os.getpid()} {url}\n")
    except FileExistsError as error:
        raise AlreadyRunningError(f"another server starts from this checkout right now; see {path}") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if path.read_text(encoding="ascii").startswith(f"{os.getpid()} "):
                path.unlink()


def find_serving(path: Path) -> Serving | None:
    """Return the server that `path` names, if it lives and is one of this checkout's.

    The number alone proves nothing: its process may be long gone and the number someone else's.
    """
    try:
        number, url = path.read_text(encoding="ascii").split()
        process = psutil.Process(int(number))
        command, folder, dead = process.cmdline(), process.cwd(), process.status() == psutil.STATUS_ZOMBIE
    except (OSError, ValueError, psutil.Error):
        return None
    marked = any(tuple(command[i : i + len(_MARK)]) == _MARK for i in range(len(command)))
    return Serving(process, url) if marked and not dead and Path(folder) == ROOT else None


def stop_serving(path: Path) -> int:
    """End the server that `path` names and wait for it; return the exit code of `make stop`."""
    serving = find_serving(path)
    if serving is None:
        path.unlink(missing_ok=True)
        print("nothing is being served from this checkout")
        return 0
    with contextlib.suppress(psutil.NoSuchProcess):
        serving.process.send_signal(signal.SIGTERM)
    end = time.monotonic() + STOP_SECONDS
    while find_serving(path) == serving:
        if time.monotonic() > end:
            print(f"process {serving.process.pid} has not ended after {STOP_SECONDS} s; look at its terminal")
            return 1
        time.sleep(0.1)
    with contextlib.suppress(psutil.TimeoutExpired):
        serving.process.wait(10)  # it has removed the file; its last breath is short
    print("stopped")
    return 0
