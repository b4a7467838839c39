"""The C library's heap, from which each prompt takes tens of megabytes and gives them back. Of glibc alone.

Parameters by the numbers in its malloc.h; mallopt(3) explains them.
"""

import contextlib
import ctypes
from typing import Final

M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
M_ARENA_MAX: Final = -8


def keep_freed_memory() -> None:
    """Have what one prompt frees kept for the next; without, thousands of pages are given back and asked for."""
    _set(M_MMAP_THRESHOLD, 32 << 20)  # the most that glibc allows
    _set(M_TRIM_THRESHOLD, 128 << 20)


def share_one_arena() -> None:
    """Have threads that begin from now on use the one heap there is, not one each.

    A thread's own is made of pieces of 64 MB. Where the arrays of a prompt of 512 tokens found no gap in the first one,
    25 MB of a second were used, and stayed for the sake of anything small that had come to lie there.
    """
    _set(M_ARENA_MAX, 1)


def _set(parameter: int, value: int) -> None:
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL("libc.so.6").mallopt(parameter, value)
