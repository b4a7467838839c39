"""A child ends for certain, with all that it started, and does not outlive its parent."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from launcher.processes import Child
from launcher.properties import ROOT

FOREVER = "import time; time.sleep(600)"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); {FOREVER}"
# Starts a process and leaves it behind; says its number.
PARENT = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {FOREVER!r}]).pid, flush=True)"


def until(claim: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def start(folder: Path, code: str) -> Child:
    with (folder / "output").open("wb") as output:
        return Child([sys.executable, "-c", code], environment=os.environ, cwd=folder, output=output)


def said(folder: Path) -> str:
    return (folder / "output").read_text()


def test_a_child_is_out_of_reach_of_the_terminals_ctrl_c(tmp_path: Path) -> None:
    child = start(tmp_path, FOREVER)
    assert os.getsid(child.pid) == child.pid != os.getsid(0)
    assert child.end(20) == -signal.SIGTERM


def test_a_child_that_does_not_listen_is_killed_when_patience_ends(tmp_path: Path) -> None:
    child = start(tmp_path, DEAF)
    until(lambda: said(tmp_path))
    assert child.end(0.2) == -signal.SIGKILL
    assert gone(child.pid)


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="needs a kernel that groups by session")
def test_a_child_and_what_it_starts_give_way_as_far_as_they_are_told(tmp_path: Path) -> None:
    look = "import os, pathlib; print(os.nice(0), pathlib.Path('/proc/self/autogroup').read_text())"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {look!r}]); {FOREVER}"
    with (tmp_path / "output").open("wb") as output:
        child = Child([sys.executable, "-c", code], environment=os.environ, cwd=tmp_path, output=output, niceness=3)
    until(lambda: said(tmp_path).endswith("\n\n"))
    child.end(20)
    nice, _, group = said(tmp_path).strip().partition(" ")
    assert int(nice) == os.nice(0) + 3
    assert group.endswith("nice 3")


def test_hurry_ends_patience(tmp_path: Path) -> None:
    child = start(tmp_path, DEAF)
    until(lambda: said(tmp_path))
    assert child.end(3600, hurry=lambda: True) == -signal.SIGKILL


@pytest.mark.parametrize("code", [f"{PARENT}; {FOREVER}", PARENT], ids=["living parent", "orphan"])
def test_what_a_child_has_started_ends_with_it(tmp_path: Path, code: str) -> None:
    child = start(tmp_path, code)
    until(lambda: said(tmp_path).endswith("\n"))
    if code == PARENT:
        until(lambda: child.exit_code is not None)
    child.end(20)
    assert gone(int(said(tmp_path)))


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_a_child_ends_when_its_parent_is_killed() -> None:
    code = (
        "import os, sys, time, pathlib\nfrom launcher.processes import Child\n"
        f"child = Child([sys.executable, '-c', {FOREVER!r}], environment=os.environ, cwd=pathlib.Path('.'))\n"
        "print(child.pid, flush=True)\ntime.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        assert not gone(pid)
        parent.kill()
    until(lambda: gone(pid))
