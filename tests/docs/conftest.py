"""A scratch checkout for documented commands: the project by links, its state its own, servers on other ports."""

import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from launcher.properties import ROOT
from launcher.serve import Stack
from launcher.torchserve import TorchServe
from launcher.trial import trial_torchserve
from tests.gateway.serving import GatewayProcess

OWN: Final = ("build", "model_store", "state", "backups")
"""What commands write: the scratch checkout's own. All else is a link to the checkout."""
SECONDS: Final = 280
"""Longest a block may take."""

DOCS: Final = Path(__file__).parent
SHOP: Final = (("When do you open?", "We open at nine."), ("Where are you?", "We are in River Street."))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The blocks run against real processes."""
    for item in items:
        if DOCS in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@dataclass
class Scratch:
    """A folder that looks like the checkout, and what its commands reach."""

    folder: Path
    environment: dict[str, str]
    addresses: dict[str, str]
    placeholders: dict[str, str]

    def run(self, commands: list[str]) -> subprocess.CompletedProcess[str]:
        """Run `commands` one after another in one shell, until one fails; it is named on standard error."""
        lines = ["set -Eeuo pipefail", "trap 'echo \"FAILED: command $number\" >&2' ERR"]
        for number, command in enumerate(commands, start=1):
            for written, actual in (self.addresses | self.placeholders).items():
                command = command.replace(written, actual)
            lines += [f"number={number}", command]
        return subprocess.run(
            ["bash", "-c", "\n".join(lines)],  # noqa: S607 - our own documents
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory, archive: Path) -> Path:
    """The scratch checkout, with an archive to serve and files of the kinds that documents speak of."""
    folder = tmp_path_factory.mktemp("checkout")
    for path in ROOT.iterdir():
        if path.name not in (*OWN, ".venv", ".git"):
            (folder / path.name).symlink_to(path)
    for name in OWN:
        (folder / name).mkdir()
    (folder / ".venv").symlink_to(Path(sys.executable).parent.parent)
    shutil.copy(archive, folder / "model_store")
    records = [
        {"Context": question, "Knowledge": f"{answer} Shop number {number} sells tea.", "Response": answer}
        for number in range(6)
        for question, answer in SHOP
    ]
    (folder / "shop.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    (folder / "bots.json").write_text(json.dumps({"old": "Old bots live on."}), encoding="utf-8")
    programs = folder / "build" / "bin"
    programs.mkdir()
    # curl that fails where a server refuses, and make that installs nothing.
    stamps = " ".join(f"-o .venv/.{stamp}" for stamp in ("created", "serving", "training", "dev"))
    for name, options in (("curl", "--fail-with-body --max-time 60"), ("make", stamps)):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec {shutil.which(name)} {options} "$@"\n')
        program.chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def key() -> str:
    """The admin key of the gateway that asks for keys."""
    return secrets.token_hex(16)


@pytest.fixture(scope="session")
def scratch(checkout: Path, stack: Stack, stack_folder: Path) -> Scratch:
    """What most blocks need: a gateway that asks for no keys, and a TorchServe that only answers."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GODEL_")}
    return Scratch(
        checkout,
        inherited
        | {
            "PATH": f"{checkout}/build/bin:{checkout}/.venv/bin:{os.environ['PATH']}",
            "GODEL_URL": stack.gateway_url,
            "GODEL_DATABASE_URL": f"sqlite:///{stack_folder}/godel.db",
        },
        {
            "http://127.0.0.1:8000": stack.gateway_url,
            "http://127.0.0.1:8080": stack.torchserve.inference_url,
            "http://127.0.0.1:8082": stack.torchserve.metrics_url,
        },
        {},
    )


@pytest.fixture(scope="session")
def guarded(scratch: Scratch, stack: Stack, key: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scratch]:
    """The same over a gateway that asks for keys."""
    database = f"sqlite:///{tmp_path_factory.mktemp('guarded')}/godel.db"
    gateway = GatewayProcess(
        {
            "GODEL_ADMIN_KEY": key,
            "GODEL_INFERENCE_URL": stack.torchserve.inference_url,
            "GODEL_MANAGEMENT_URL": stack.torchserve.management_url,
            "GODEL_DATABASE_URL": database,
        }
    )
    try:
        yield Scratch(
            scratch.folder,
            scratch.environment | {"GODEL_URL": gateway.url, "GODEL_ADMIN_KEY": key, "GODEL_DATABASE_URL": database},
            scratch.addresses | {"http://127.0.0.1:8000": gateway.url},
            {
                "GODEL_ADMIN_KEY=...": f"GODEL_ADMIN_KEY={key}",
                "KEY_ID": "\"$(.venv/bin/godel keys list | awk 'NR == 2 {print $1}')\"",
            },
        )
    finally:
        gateway.close()


@pytest.fixture(scope="session")
def open_torchserve(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchServe]:
    """A TorchServe over the scratch checkout's archives that takes models: what documents reach at port 8081."""
    archive = checkout / "model_store" / "godel.mar"
    with trial_torchserve(tmp_path_factory.mktemp("open"), archive, {"enable_model_api": "true"}) as torchserve:
        yield torchserve
