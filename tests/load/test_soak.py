"""The mixed load on a stack of its own, SOAK_MINUTES long: the machinery works, and all promises are kept.

A minute, or the ten that continuous integration takes, cannot tell whether anything grows slowly; that a growth would
be found is shown over made-up figures in test_trend.py.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from launcher.properties import ROOT
from launcher.stack import Stack

pytestmark = [pytest.mark.e2e, pytest.mark.soak]

MINUTES = float(os.environ.get("SOAK_MINUTES", "1"))


@pytest.mark.timeout(60 * MINUTES + 340)
def test_ten_times_the_capacity_breaks_no_promise(tmp_path: Path) -> None:
    output = tmp_path / "soak.json"
    cycle = max(12.0, 5 * MINUTES)  # seconds: enough of them for a line through what is seen at rest
    command = [sys.executable, "-m", "bench.soak", "--minutes", str(MINUTES), "--cycle", str(cycle), "--seed", "7"]
    # A short queue, for in seconds a long one need not fill: what is asked here is that the rest is refused.
    short = os.environ | {"GODEL_MAX_WAITING": "4"}
    ended = subprocess.run(
        [*command, "--output", str(output)],
        cwd=ROOT,
        env=short,
        timeout=60 * MINUTES + 320,
        check=False,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = json.loads(output.read_text(encoding="utf-8"))
    assert json.loads(ended.stdout.splitlines()[-1]) == found
    assert (found["kept"], found["broken"]) == (True, 0)
    phases = found["phases"]
    assert phases.keys() == {"closed", "1x", "2x", "10x"}
    assert all(phase["endings"]["done"] > 0 for phase in phases.values())
    assert phases["10x"]["endings"]["refused"] > 0, "ten times the capacity was not too much?"
    assert found["acknowledged_turns"] > 0
    for name in ("gateway in flight", "gateway waiting", "torchserve queue", "live slots"):
        assert found["vitals"][name]["last"] == 0, f"{name} is not free at rest"
    assert found["vitals"]["gateway memory, MB"]["first"] > 0


@pytest.mark.timeout(200)
def test_a_stack_that_runs_already_is_put_under_load_and_left_as_it_was(stack: Stack) -> None:
    command = [sys.executable, "-m", "bench.soak", "--url", stack.gateway_url]
    command += ["--minutes", "0.1", "--cycle", "8", "--clients", "12"]
    ended = subprocess.run(command, cwd=ROOT, timeout=180, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found["phases"]["closed"]["endings"]["done"] > 0
    bots = httpx.get(f"{stack.gateway_url}/v1/bots", params={"limit": 200}).raise_for_status().json()["bots"]
    assert [bot["bot_id"] for bot in bots if bot["bot_id"].startswith("soak-")] == []


def test_a_stack_elsewhere_is_not_put_under_load() -> None:
    command = [sys.executable, "-m", "bench.soak", "--url", "http://example.org"]
    refused = subprocess.run(command, cwd=ROOT, timeout=60, check=False, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "not on this machine" in refused.stderr
