"""Every curl line of the README, run as it stands; only the ports are those of the stack under test."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from launcher.properties import ROOT
from launcher.serve import Stack
from launcher.trial import trial_torchserve
from training.archive import build_archive

GATEWAY, MANAGEMENT = "http://127.0.0.1:8000", "http://127.0.0.1:8081"

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="the README's commands need curl")


def curl_lines(address: str) -> list[str]:
    """Return the README's curl commands to `address`, continuation lines joined."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    return [line for line in text.splitlines() if line.startswith("curl") and address in line]


def statuses(commands: list[str], address: str, actual: str) -> list[str]:
    """Run `commands` against `actual` instead of `address`; return each one's HTTP status."""
    printed = []
    for command in commands:
        done = subprocess.run(
            ["bash", "-c", f"{command.replace(address, actual)} -o /dev/null -w '%{{http_code}}'"],  # noqa: S607 - our own README
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        printed.append(done.stdout)
    return printed


def test_the_commands_to_the_gateway_succeed(stack: Stack) -> None:
    commands = curl_lines(GATEWAY)
    assert len(commands) >= 10
    wrong = {
        command: status
        for command, status in zip(commands, statuses(commands, GATEWAY, stack.gateway_url), strict=True)
        if not re.fullmatch("20[014]", status)
    }
    assert wrong == {}


def test_the_commands_to_the_management_api_succeed_in_order(tmp_path: Path, archive: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    shutil.copy(archive, store / "godel.mar")
    build_archive("models/embedded", store / "godel-2.0.mar", engine="onnx", precision="int4", version="2.0")
    commands = curl_lines(MANAGEMENT)
    assert len(commands) == 5
    with trial_torchserve(tmp_path / "run", store / "godel.mar", {"enable_model_api": "true"}) as torchserve:
        assert statuses(commands, MANAGEMENT, torchserve.management_url) == ["200"] * 5
        versions = torchserve.manage("GET", "/models/godel/all")
    assert [version["modelVersion"] for version in versions] == ["2.0"]
