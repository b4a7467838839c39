"""A child process of ours: in a session of its own, ended for certain, and not outliving its parent."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Final

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


class Child:
    """A started process and all that it starts."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        environment: Mapping[str, str],
        cwd: Path,
        output: IO[bytes] | None = None,
    ) -> None:
        """Start `command`; `output` takes its standard output and error, None leaves them on ours.

        A session of its own keeps the terminal's Ctrl-C away from it: it is we who end it, in order.
        """
        self._process = subprocess.Popen(
            command,
            env=dict(environment),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if output else None,
            start_new_session=True,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )

    @property
    def pid(self) -> int:
        """Its process id, which is also that of its group."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def terminate(self) -> None:
        """Ask it to end."""
        if self.exit_code is None:
            self._process.terminate()

    def end(self, patience: float) -> int:
        """Ask it to end, insist after `patience` seconds, leave nothing of its group; return its exit code."""
        self.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(patience)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        return self._process.wait()


def _die_with_parent() -> None:
    """Have the kernel send SIGTERM when the parent dies, even by SIGKILL. Linux only; elsewhere it is up to `stop`."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
