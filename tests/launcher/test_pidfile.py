"""`make stop` ends the server that the pid file names, and never anything else."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.pidfile import AlreadyRunningError, find_serving, held_pidfile, stop_serving
from launcher.properties import ROOT

URL = "http://127.0.0.1:1"
# What a server's command line looks like, around a process that only waits for its end.
SERVER = [sys.executable, "-c", "import sys; sys.stdin.read()", "-m", "launcher", "serve"]


@pytest.fixture
def pidfile(tmp_path: Path) -> Path:
    return tmp_path / "run" / "serve.pid"


def waiting(command: list[str], cwd: Path) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, cwd=cwd, stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


@pytest.fixture
def server() -> Iterator[subprocess.Popen[bytes]]:
    yield from waiting(SERVER, ROOT)


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    yield from waiting(SERVER[:3], ROOT)


@pytest.fixture
def other_checkouts_server(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    yield from waiting(SERVER, tmp_path)


def name(pidfile: Path, process: subprocess.Popen[bytes]) -> None:
    pidfile.parent.mkdir()
    pidfile.write_text(f"{process.pid} {URL}\n")


def test_a_held_pidfile_names_this_process_and_goes_in_the_end(pidfile: Path) -> None:
    with held_pidfile(pidfile, URL):
        assert pidfile.read_text() == f"{os.getpid()} {URL}\n"
    assert not pidfile.exists()


def test_of_two_that_start_at_once_one_gets_it(pidfile: Path) -> None:
    with held_pidfile(pidfile, URL):
        pidfile.unlink()  # as one would that looked for a living server before the other had written
        with pytest.raises(AlreadyRunningError, match="starts or ends"), held_pidfile(pidfile, URL):
            pass
    with held_pidfile(pidfile, URL):
        assert pidfile.exists()


def test_a_living_server_is_found_and_keeps_a_second_from_starting(
    pidfile: Path, server: subprocess.Popen[bytes]
) -> None:
    name(pidfile, server)
    found = find_serving(pidfile)
    assert found is not None
    assert (found.process.pid, found.url) == (server.pid, URL)
    with pytest.raises(AlreadyRunningError, match=f"process {server.pid}"), held_pidfile(pidfile, URL):
        pass
    assert pidfile.exists()


def test_stop_ends_the_server_and_waits_for_it(
    pidfile: Path, server: subprocess.Popen[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    name(pidfile, server)
    assert stop_serving(pidfile) == 0
    assert server.poll() is not None
    assert capsys.readouterr().out == "stopped\n"


def test_stop_leaves_a_stranger_with_the_same_number_alone(
    pidfile: Path, stranger: subprocess.Popen[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    name(pidfile, stranger)
    assert stop_serving(pidfile) == 0
    assert stranger.poll() is None
    assert "nothing is being served" in capsys.readouterr().out
    assert not pidfile.exists()


def test_stop_leaves_another_checkouts_server_alone(
    pidfile: Path, other_checkouts_server: subprocess.Popen[bytes]
) -> None:
    name(pidfile, other_checkouts_server)
    assert stop_serving(pidfile) == 0
    assert other_checkouts_server.poll() is None


@pytest.mark.parametrize("content", ["", "no number", "999999999 http://127.0.0.1:1\n", "-1 x\n", "12"])
def test_a_stale_pidfile_is_in_nobodys_way(pidfile: Path, content: str) -> None:
    pidfile.parent.mkdir()
    pidfile.write_text(content)
    assert find_serving(pidfile) is None
    with held_pidfile(pidfile, URL):
        assert pidfile.read_text().startswith(str(os.getpid()))
