"""A checkpoint is data: whatever stands in one, loading it runs none of it."""

import ast
import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handler.engines.base import EngineError
from handler.engines.onnx_engine import OnnxEngine
from handler.engines.torch_engine import TorchEngine
from training.checkpoint import CheckpointError, resolve_checkpoint
from training.export import export
from training.model_folder import load_model
from training.run_folder import STATE, RunFolderError, load_state

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "models" / "embedded"


class Trap:
    """Runs a command when it is unpickled."""

    def __init__(self, sprung: Path) -> None:
        self.command = f"touch {sprung}"

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.fixture
def sprung(tmp_path: Path) -> Iterator[Path]:
    """The file that every trap here would make."""
    path = tmp_path / "sprung"
    yield path
    assert not path.exists(), "a checkpoint was run"


@pytest.fixture
def trap(sprung: Path) -> bytes:
    return pickle.dumps({"shared.weight": Trap(sprung)})


def test_the_trap_would_spring(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Trap(tmp_path / "here")))  # noqa: S301 - what must not happen elsewhere
    assert (tmp_path / "here").exists()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the embedded model to spoil."""
    return shutil.copytree(MODEL, tmp_path / "model")


LOADERS: dict[str, tuple[Callable[[Path], object], type[Exception]]] = {
    "the torch engine": (lambda folder: TorchEngine(folder, slots=1), EngineError),
    "training and its stages": (load_model, CheckpointError),
    "the export": (lambda folder: export(str(folder), folder / "out", engine="onnx", precision="int8"), EngineError),
}


@pytest.mark.parametrize("name", LOADERS)
def test_weights_that_are_a_pickle_are_refused(folder: Path, trap: bytes, name: str) -> None:
    (folder / "model.safetensors").write_bytes(trap)
    load, refusal = LOADERS[name]
    with pytest.raises(refusal):
        load(folder)


@pytest.mark.parametrize("name", ["the torch engine", "training and its stages"])
def test_a_pickle_beside_the_weights_is_not_looked_at(folder: Path, trap: bytes, name: str) -> None:
    for other in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "model.pt"):
        (folder / other).write_bytes(trap)
    LOADERS[name][0](folder)


def test_a_checkpoint_of_the_hub_is_read_as_weights_alone(folder: Path, tmp_path: Path, trap: bytes) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    (folder / "pytorch_model.bin").write_bytes(trap)
    with pytest.raises(CheckpointError):
        resolve_checkpoint(str(folder), tmp_path / "converted")


def test_code_that_a_checkpoint_brings_along_stays_text(folder: Path, tmp_path: Path, sprung: Path) -> None:
    for name, classes in (
        ("config.json", {"AutoConfig": "evil.Config", "AutoModelForSeq2SeqLM": "evil.Model"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["evil.Slow", "evil.Fast"]}),
    ):
        path = folder / name
        held = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps(held | {"auto_map": classes, "trust_remote_code": True}))
    (folder / "evil.py").write_text(f"open({str(sprung)!r}, 'w').close()\nclass Config: ...\nclass Fast: ...\n")
    load_model(folder)
    resolve_checkpoint(str(folder), tmp_path / "converted")
    TorchEngine(folder, slots=1)


def test_the_state_of_a_run_is_read_as_data(tmp_path: Path, trap: bytes) -> None:
    (tmp_path / STATE).write_bytes(trap)
    with pytest.raises(RunFolderError):
        load_state(tmp_path)


def test_the_tables_of_the_onnx_engine_are_read_as_numbers(tmp_path: Path, sprung: Path) -> None:
    export(str(MODEL), tmp_path / "export", engine="onnx", precision="int8")
    tables = list((tmp_path / "export").glob("*.npy"))
    assert tables
    trapped = np.empty(1, dtype=object)
    trapped[0] = Trap(sprung)
    np.save(tables[0], trapped, allow_pickle=True)
    with pytest.raises(EngineError, match="cannot be read"):
        OnnxEngine(tmp_path / "export", precision="int8", slots=1)


def test_no_code_of_the_project_loads_what_could_run() -> None:
    """For the places that the tests above do not know yet."""
    found = []
    for top in ("gateway", "handler", "launcher", "training", "bench", "examples"):
        for file in (ROOT / top).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                    bad = any(
                        name.split(".")[0] in ("pickle", "joblib", "dill", "cloudpickle", "marshal", "shelve")
                        for name in names
                    )
                elif isinstance(node, ast.Call):
                    called, given = (
                        ast.unparse(node.func),
                        {word.arg: ast.unparse(word.value) for word in node.keywords},
                    )
                    bad = called == "torch.load" and given.get("weights_only") != "True"
                    bad |= called in ("yaml.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec")
                    bad |= (
                        given.get("trust_remote_code", "False") != "False"
                        or given.get("allow_pickle", "False") != "False"
                    )
                else:
                    continue
                found += [f"{file.relative_to(ROOT)}:{node.lineno}"] if bad else []
    assert found == []
