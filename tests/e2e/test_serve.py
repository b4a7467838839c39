"""`python -m launcher serve`, what `make serve` runs: ready with one line to try, drained on SIGTERM, nothing left."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from launcher.properties import ROOT
from tests.launcher.served import Served

pytestmark = pytest.mark.usefixtures("archive")


ASKERS = 4
"""One answer of the embedded model may be over before its processor time can be seen."""


def until_busy(worker: psutil.Process, askers: list[threading.Thread]) -> None:
    """Start the requests and return once the worker computes for them."""
    before = worker.cpu_times().user
    for asker in askers:
        asker.start()
    end = time.monotonic() + 30
    while worker.cpu_times().user < before + 0.1:
        assert time.monotonic() < end, "no request ever reached the worker"
        time.sleep(0.01)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    served = Served(tmp_path, environment={"GODEL_PORT": str(port)})
    yield served
    if served.process.poll() is None:
        served.process.send_signal(signal.SIGTERM)
        served.process.wait(60)


@pytest.mark.timeout(180)
def test_serve_prints_a_line_to_try_that_works_drains_on_sigterm_and_leaves_no_process(served: Served) -> None:
    url = re.findall(r"http://\S+", served.wait_for("^ready: "))[0]
    tried = subprocess.run(
        shlex.split(served.wait_for("^  curl ")), capture_output=True, text=True, check=True, timeout=60
    )
    assert "Context updated successfully for cricket" in tried.stdout
    assert tried.stdout.count('"response"') == 2

    second = served.command("serve")
    assert second.returncode == 1
    assert len(second.stderr.strip().splitlines()) == 1
    assert "already serving" in second.stderr

    replies: list[httpx.Response] = []
    body = {"message": "How many players?", "parameters": {"min_length": 250, "max_length": 250}}
    client = httpx.Client(timeout=60)
    askers = [
        threading.Thread(target=lambda: replies.append(client.post(f"{url}/v1/bots/cricket/chat", json=body)))
        for _ in range(ASKERS)
    ]
    family = served.family()
    assert len(family) >= 3  # Java, its worker, the gateway
    until_busy(next(each for each in family if "model_service_worker" in " ".join(each.cmdline())), askers)
    served.process.send_signal(signal.SIGTERM)
    for asker in askers:
        asker.join()
    client.close()
    assert served.process.wait(60) == 0
    assert [reply.status_code for reply in replies] == [200] * ASKERS
    assert all(reply.json()["usage"]["completion_tokens"] > 0 for reply in replies)
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []


def test_a_busy_port_is_one_line_that_says_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "launcher", "serve"],
            cwd=ROOT,
            env=os.environ | {"GODEL_PORT": str(port)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert str(port) in line
    assert "GODEL_PORT" in line


def test_a_broken_archive_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    broken = tmp_path / "broken.mar"
    broken.write_bytes(b"no zip")
    done = subprocess.run(
        [sys.executable, "-m", "launcher", "serve"],
        cwd=ROOT,
        env=os.environ | {"GODEL_TOKENIZER": str(broken)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert "make archive" in line
