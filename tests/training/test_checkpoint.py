"""A checkpoint laid out like the hub's, converted: once, whole or not at all, and again when it has changed."""

import json
from pathlib import Path

import pytest

from training.checkpoint import CheckpointError, resolve_checkpoint


def test_processes_that_come_later_take_the_conversion_that_is_there(hub_folder: Path, tmp_path: Path) -> None:
    converted = resolve_checkpoint(str(hub_folder), tmp_path / "run" / "converted")
    before = {path.name: path.stat() for path in (converted, *converted.iterdir())}
    assert resolve_checkpoint(str(hub_folder), converted) == converted
    assert {path.name: path.stat() for path in (converted, *converted.iterdir())} == before
    assert [path.name for path in converted.parent.iterdir()] == ["converted"]


def test_a_checkpoint_that_has_changed_is_converted_again(hub_folder: Path, tmp_path: Path) -> None:
    resolve_checkpoint(str(hub_folder), tmp_path / "converted")
    config = json.loads((hub_folder / "config.json").read_text())
    (hub_folder / "config.json").write_text(json.dumps(config | {"dropout_rate": 0.25}))
    converted = resolve_checkpoint(str(hub_folder), tmp_path / "converted")
    assert json.loads((converted / "config.json").read_text())["dropout_rate"] == 0.25


def test_a_conversion_that_fails_leaves_nothing_that_looks_whole(hub_folder: Path, tmp_path: Path) -> None:
    (hub_folder / "spiece.model").unlink()
    with pytest.raises(CheckpointError, match=r"neither tokenizer\.json nor spiece\.model"):
        resolve_checkpoint(str(hub_folder), tmp_path / "run" / "converted")
    assert list((tmp_path / "run").iterdir()) == []
