"""A TorchServe that asks for its keys, started once for all tests here that need a real one."""

import json
from collections.abc import Iterator

import pytest

from launcher.torchserve import TorchServe
from launcher.trial import ARCHIVE, trial_torchserve


def keys_of(torchserve: TorchServe) -> dict[str, dict[str, str]]:
    """Return the headers that carry each of its keys."""
    assert torchserve.key_file
    entries = json.loads(torchserve.key_file.read_text(encoding="utf-8"))
    return {name: {"Authorization": f"Bearer {entry['key']}"} for name, entry in entries.items()}


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchServe]:
    """TorchServe with the embedded model, on free ports, its tokens on."""
    assert ARCHIVE.is_file(), "run `make archive` first, or `make test`, which does"
    own = {"disable_token_authorization": "false"}
    with trial_torchserve(tmp_path_factory.mktemp("guarded"), overrides=own) as torchserve:
        yield torchserve
