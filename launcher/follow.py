"""Copies what is appended to log files to standard output, as a container's log is expected there."""

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_PERIOD_SECONDS: Final = 0.25
_BLOCK_BYTES: Final = 1 << 16


class Follower:
    """Follows `paths`, existing or not, rolled over or not, as long as it is entered, and once more when it is left."""

    def __init__(self, paths: Sequence[Path], output: int = 1) -> None:
        """`output` is a file descriptor. Whoever read it may be gone: then lines are dropped."""
        self._files = [_Followed(path) for path in paths]
        self._output = output
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join()

    def _follow(self) -> None:
        ending = False
        while not ending:
            ending = self._ending.wait(_PERIOD_SECONDS)  # what was written until then is still read
            for file in self._files:
                while lines := file.fresh():
                    self._write(lines)

    def _write(self, lines: bytes) -> None:
        try:
            while lines:
                lines = lines[os.write(self._output, lines) :]
        except OSError:
            return


class _Followed:
    """One file: the place up to which it has been read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode = 0
        self._read = 0

    def fresh(self) -> bytes:
        """Return whole lines that have come since the last call, a block of them at most; b"" for none."""
        try:
            with self._path.open("rb") as file:
                state = os.fstat(file.fileno())
                if state.st_ino != self._inode or state.st_size < self._read:
                    self._inode, self._read = state.st_ino, 0  # a new file of the same name
                file.seek(self._read)
                block = file.read(_BLOCK_BYTES)
        except FileNotFoundError:
            return b""
        whole = block[: block.rfind(b"\n") + 1] or (block if len(block) == _BLOCK_BYTES else b"")
        self._read += len(whole)
        return whole
