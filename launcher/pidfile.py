"""The file that says which process serves and where, so that `make stop` ends that one and no other."""

import contextlib
import fcntl
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
    path.parent.mkdir(parents=True, exist_ok=True)
    # The lock says who holds it, of two that start at once one; the kernel frees it whatever ends the process. The file
    # of the lock stays: who waited for one that is removed would hold what nobody else sees.
    with path.with_suffix(".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            serving = find_serving(path)
            holder = f"process {serving.process.pid}" if serving else "another process, which starts or ends just now"
            raise AlreadyRunningError(f"already serving from this checkout ({holder}); `make stop` ends it") from error
        if serving := find_serving(path):  # of a release without the lock
            raise AlreadyRunningError(
                f"already serving from this checkout (process {serving.process.pid}); `make stop` ends it"
            )
        path.write_text(f"{os.getpid()} {url}\n", encoding="ascii")
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


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
