"""A child process of ours: in a session of its own, ended for certain, and not outliving its parent."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

import psutil

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
# Looked up here: between fork and exec it would be too late to load anything safely.
_LIBC: Final = ctypes.CDLL(None) if sys.platform == "linux" else None
_POLL_SECONDS: Final = 0.05
_KILL_SECONDS: Final = 5


class Child:
    """A started process and all that it starts. Make it in a thread that lives as long as it is to live."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        environment: Mapping[str, str],
        cwd: Path,
        output: IO[bytes] | None = None,
        niceness: int = 0,
    ) -> None:
        """Start `command`; `output` takes its standard output and error, None leaves them on ours.

        A session of its own keeps the terminal's Ctrl-C away from it: it is we who end it, in order. `niceness`, from
        0 to 19, is how far it gives way to others where there are not enough cores for all.
        """

        def begin() -> None:  # in the child
            _die_with_parent()
            os.nice(niceness)

        self._process = subprocess.Popen(
            command,
            env=dict(environment),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if output else None,
            start_new_session=True,
            preexec_fn=begin,
        )
        # Where Linux shares out the cores by session, it asks how nice the session is.
        if niceness:
            with contextlib.suppress(OSError):  # other kernels have no such file
                Path(f"/proc/{self.pid}/autogroup").write_text(str(niceness), encoding="ascii")

    @property
    def pid(self) -> int:
        """Its process id, which is also that of its session."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def terminate(self) -> None:
        """Ask it to end."""
        if self.exit_code is None:
            self._process.terminate()

    def end(self, patience: float, hurry: Callable[[], bool] = lambda: False) -> int:
        """Ask it to end, insist after `patience` seconds or once `hurry` says so; return its exit code.

        Nothing of its session is left then, not even what a parent that died before had started.
        """
        self.terminate()
        end = time.monotonic() + patience
        while self.exit_code is None and time.monotonic() < end and not hurry():
            time.sleep(_POLL_SECONDS)
        members = self._session()
        for member in members:
            with contextlib.suppress(psutil.Error):
                member.kill()
        code = self._process.wait()
        psutil.wait_procs(members, timeout=_KILL_SECONDS)
        return code

    def _session(self) -> list[psutil.Process]:
        """Return the living processes of its session, orphans included, which have no parent to be found by."""
        found = []
        for process in psutil.process_iter():
            # A process may end at any moment while it is looked at.
            with contextlib.suppress(OSError, psutil.Error):
                if os.getsid(process.pid) == self.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found


def _die_with_parent() -> None:
    """Have the kernel send SIGTERM when the parent dies, even by SIGKILL. Linux only; elsewhere it is up to `stop`.

    To the kernel the parent is the thread that forked, hence the advice on `Child`.
    """
    if _LIBC:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
