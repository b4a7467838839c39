"""Where the memory lies that a thread takes from the C library."""

import ctypes
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from handler.engines.heap import keep_freed_memory, share_one_arena

MAPS = Path("/proc/self/maps")
TAKEN = 24 << 20


def main() -> None:
    """Print the name of the mapping in which a thread's array lies. What is set stays, so run it as a process."""
    keep_freed_memory()
    if "shared" in sys.argv:
        share_one_arena()
    threading.Thread(target=_say_where).start()


def _say_where() -> None:
    taken = bytearray(TAKEN)
    address = ctypes.addressof((ctypes.c_char * TAKEN).from_buffer(taken))
    for line in MAPS.read_text(encoding="utf-8").splitlines():
        start, end, name = re.fullmatch(r"(\w+)-(\w+)(?: \S+){4} *(.*)", line).groups()  # type: ignore[union-attr]
        if int(start, 16) <= address < int(end, 16):
            print(name or "(a mapping of its own)")


@pytest.mark.skipif(not MAPS.exists(), reason="needs /proc")
@pytest.mark.parametrize("how", ["shared", "as it is"])
def test_a_thread_takes_memory_from_the_one_heap_when_it_is_told_to(how: str) -> None:
    command = [sys.executable, "-m", "tests.handler.test_heap", how]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    assert (done.stdout.strip() == "[heap]") == (how == "shared")


if __name__ == "__main__":
    main()
