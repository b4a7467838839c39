"""The file that says which process serves, so that `make stop` ends that one and no other."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psutil

STOP_SECONDS: Final = 90
_MARK: Final = ("-m", "launcher", "serve")


class AlreadyRunningError(RuntimeError):
    """Another process serves from this checkout."""


@contextlib.contextmanager
def held_pidfile(path: Path) -> Iterator[None]:
    """Hold `path` with this process's id. Raises AlreadyRunningError when a living server holds it."""
    if process := serving_process(path):
        raise AlreadyRunningError(f"already serving from this checkout (process {process.pid}); `make stop` ends it")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{os.getpid()}\n", encoding="ascii")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def serving_process(path: Path) -> psutil.Process | None:
    """Return the server that `path` names, if it lives and is one: a number may have passed to someone else."""
    try:
        process = psutil.Process(int(path.read_text(encoding="ascii")))
        command = process.cmdline()
    except (OSError, ValueError, psutil.Error):
        return None
    is_server = any(tuple(command[i : i + len(_MARK)]) == _MARK for i in range(len(command)))
    return process if is_server and process.pid != os.getpid() else None


def stop_serving(path: Path) -> int:
    """End the server that `path` names and wait for it; return the exit code of `make stop`."""
    process = serving_process(path)
    if process is None:
        path.unlink(missing_ok=True)
        print("nothing is being served from this checkout")
        return 0
    process.send_signal(signal.SIGTERM)
    end = time.monotonic() + STOP_SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(psutil.TimeoutExpired):
            process.wait(0.5)
            print("stopped")
            return 0
    print(f"process {process.pid} has not ended after {STOP_SECONDS} s; look at its terminal")
    return 1
