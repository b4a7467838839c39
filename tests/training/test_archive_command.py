"""`python -m training.archive`: what is built when not everything is said, and how a refusal reads."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from handler.contract.archive import read_metadata
from training.archive import held_choices
from training.checkpoint import source_files
from training.worker_config import ROOT

CHOICES = {"engine": "echo", "precision": "auto", "name": "godel", "version": "2.0"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A checkpoint folder as far as an archive looks into it."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"vocab_size": 8}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def archive(tmp_path: Path, model: Path) -> Path:
    path = tmp_path / "store" / "godel.mar"
    done = command("--output", path, "--model", model, "--engine", "echo", "--version", "2.0")
    assert done.returncode == 0, done.stderr
    return path


def command(*options: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "training.archive", *options], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_an_archive_remembers_what_it_was_made_with(archive: Path, model: Path) -> None:
    assert held_choices(archive) == CHOICES | {"model": str(model)}
    assert held_choices(archive.with_name("missing.mar")) == {}


def test_nothing_happens_while_the_archive_is_what_its_own_inputs_give(archive: Path) -> None:
    before = archive.stat()
    done = command("--output", archive, "--if-stale")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (archive.stat().st_ino, archive.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_changed_input_is_built_again_with_the_same_choices(archive: Path, model: Path) -> None:
    before = read_metadata(archive)
    (model / "model.safetensors").write_bytes(b"trained")
    assert command("--output", archive, "--if-stale").returncode == 0
    after = read_metadata(archive)
    assert {key for key in before if before[key] != after[key]} == {"source_sha256", "model_sha256"}


def test_what_is_said_comes_before_what_is_remembered(archive: Path, model: Path) -> None:
    assert command("--output", archive, "--if-stale", "--version", "3.0").returncode == 0
    assert held_choices(archive) == CHOICES | {"model": str(model), "version": "3.0"}


def test_another_engine_starts_from_its_own_precision(tmp_path: Path) -> None:
    path, embedded = tmp_path / "godel.mar", "models/embedded"
    assert command("--output", path, "--model", embedded, "--engine", "onnx", "--precision", "int4").returncode == 0
    assert command("--output", path, "--if-stale", "--engine", "torch").returncode == 0
    assert held_choices(path) == CHOICES | {"model": embedded, "engine": "torch", "version": "1.0"}


def test_another_model_starts_from_its_own_precision(tmp_path: Path) -> None:
    path, embedded = tmp_path / "godel.mar", Path("models/embedded")
    assert command("--output", path, "--model", embedded, "--precision", "int8").returncode == 0
    shutil.copytree(ROOT / embedded, tmp_path / "own")
    assert command("--output", path, "--if-stale", "--model", tmp_path / "own").returncode == 0
    assert held_choices(path)["precision"] == "auto"


def test_a_checkpoint_as_the_hub_has_it_is_compared_before_it_is_converted(tmp_path: Path) -> None:
    for name in ("config.json", "pytorch_model.bin", "spiece.model"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "README.md").write_text("changes nothing")
    assert {file.name for file in source_files(tmp_path)} == {"config.json", "pytorch_model.bin", "spiece.model"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--precision", "fp16"], "NaN"),
        (["--engine", "abacus"], "torch or echo"),
        (["--model", "models/nowhere"], "no checkpoint folder models/nowhere"),
        (["--output", "godel.zip"], "end in .mar"),
    ],
)
def test_a_refusal_is_one_line_and_leaves_the_archive(archive: Path, options: list[str], said: str) -> None:
    before = archive.read_bytes()
    done = command("--output", archive, *options)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("archive: ")
    assert said in line
    assert archive.read_bytes() == before
    assert [path.name for path in archive.parent.iterdir()] == [archive.name]


def test_a_missing_file_is_named(archive: Path, model: Path) -> None:
    (model / "config.json").unlink()
    done = command("--output", archive, "--model", model)
    assert done.returncode == 1
    assert str(model / "config.json") in done.stderr
