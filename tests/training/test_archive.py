"""Archives: reproducible, atomic, refused when wrong; and checkpoints laid out like the hub's."""

import ast
import json
import pickle
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gateway.served_archive import read_archive
from handler.contract.archive import ArchiveError, model_files, read_metadata
from handler.contract.prompt import FORMAT_VERSION
from handler.engines.base import EngineError
from handler.engines.torch_engine import TorchEngine
from handler.tokenization import Tokenization
from training.archive import BUILDERS, build_archive, is_stale
from training.checkpoint import CheckpointError, resolve_checkpoint
from training.export import export
from training.pretrain import pretrain
from training.worker_config import ROOT

INPUTS: dict[str, str] = {"engine": "torch", "precision": "fp32", "name": "godel", "version": "1.0"}
ONNX = INPUTS | {"engine": "onnx", "precision": "int8"}
each_engine = pytest.mark.parametrize("inputs", [INPUTS, ONNX], ids=["torch", "onnx"])


@pytest.fixture
def model(tmp_path: Path, data: Path, recipe: dict[str, Any]) -> Path:
    recipe["stages"] = []
    return pretrain(recipe, data=data, text=[], folder=tmp_path / "run")


@each_engine
def test_the_same_inputs_give_the_same_bytes(tmp_path: Path, model: Path, inputs: dict[str, str]) -> None:
    first, second = tmp_path / "1.mar", tmp_path / "2.mar"
    build_archive(str(model), first, **inputs)
    build_archive(str(model), second, **inputs)
    assert first.read_bytes() == second.read_bytes()


def test_two_builds_at_once_do_not_disturb_each_other(tmp_path: Path, model: Path) -> None:
    archives = [tmp_path / f"{number}.mar" for number in range(4)]
    with ThreadPoolExecutor(len(archives)) as threads:
        list(threads.map(lambda archive: build_archive(str(model), archive, **INPUTS), archives))
    assert len({archive.read_bytes() for archive in archives}) == 1


@each_engine
def test_an_archive_says_what_it_is_made_of(tmp_path: Path, model: Path, inputs: dict[str, str]) -> None:
    build_archive(str(model), tmp_path / "a.mar", **inputs)
    metadata = read_metadata(tmp_path / "a.mar")
    assert metadata["source"] == str(model)
    assert (metadata["engine"], metadata["precision"]) == (inputs["engine"], inputs["precision"])
    assert metadata["format_version"] == FORMAT_VERSION
    assert len(metadata["model_sha256"]) == 64
    names = zipfile.ZipFile(tmp_path / "a.mar").namelist()
    assert "handler/scheduler.py" in names
    assert ("torch.py" in names) == (inputs["engine"] != "torch"), "the stub would stand before the real one"
    assert {name for name in names if name.startswith("model/")} == {
        f"model/{file}" for file in model_files(inputs["engine"])
    }
    assert not [name for name in names if "__pycache__" in name or "gateway" in name]


@each_engine
def test_an_archive_is_stale_when_missing_damaged_or_of_other_inputs(
    tmp_path: Path, model: Path, inputs: dict[str, str]
) -> None:
    archive = tmp_path / "a.mar"
    assert is_stale(archive, str(model), **inputs)
    build_archive(str(model), archive, **inputs)
    assert not is_stale(archive, str(model), **inputs)
    assert is_stale(archive, str(model), **inputs | {"precision": "auto"})
    whole = archive.read_bytes()
    middle = len(whole) // 2
    archive.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    assert is_stale(archive, str(model), **inputs)
    archive.write_bytes(whole)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"note": "changed"}))
    assert is_stale(archive, str(model), **inputs)
    archive.write_bytes(archive.read_bytes()[:-100])
    assert is_stale(archive, str(model), **inputs)


def test_an_export_is_archived_as_it_is(tmp_path: Path, model: Path) -> None:
    export(str(model), tmp_path / "export", engine="onnx", precision="int8")
    build_archive(str(tmp_path / "export"), tmp_path / "a.mar", **ONNX)
    archived = zipfile.ZipFile(tmp_path / "a.mar")
    for file in model_files("onnx"):
        assert archived.read(f"model/{file}") == (tmp_path / "export" / file).read_bytes()
    with pytest.raises(CheckpointError, match="an export for engine onnx"):
        build_archive(str(tmp_path / "export"), tmp_path / "b.mar", **INPUTS)


def test_an_archive_that_its_engine_cannot_serve_is_not_made(tmp_path: Path, model: Path) -> None:
    export(str(model), tmp_path / "export", engine="onnx", precision="int4")
    with pytest.raises(EngineError, match="exported in int4, not int8"):
        build_archive(str(tmp_path / "export"), tmp_path / "a.mar", **ONNX)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"feed_forward_proj": "gated-gelu"}))
    with pytest.raises(EngineError, match="gated-gelu"):
        build_archive(str(model), tmp_path / "a.mar", **INPUTS)
    assert not (tmp_path / "a.mar").exists()


@each_engine
def test_a_models_own_defaults_come_with_it(tmp_path: Path, model: Path, inputs: dict[str, str]) -> None:
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": 1, "min_length": 0, "top_p": None}))
    build_archive(str(model), tmp_path / "a.mar", **inputs)
    assert read_metadata(tmp_path / "a.mar")["parameters"] == {"min_length": 0}
    assert read_archive(tmp_path / "a.mar").parameters == {"min_length": 0}
    (model / "generation_config.json").write_text(json.dumps({"min_length": -1}))
    assert is_stale(tmp_path / "a.mar", str(model), **inputs)
    with pytest.raises(ArchiveError, match=r"generation_config\.json: min_length: must be from 0"):
        build_archive(str(model), tmp_path / "a.mar", **inputs)


def test_all_code_that_makes_an_archive_makes_an_old_one_stale() -> None:
    named = {path.stem for path in BUILDERS if path.suffix == ".py"}
    for name in named:
        tree = ast.parse((ROOT / "training" / f"{name}.py").read_text(encoding="utf-8"))
        modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
        imported = {module.partition(".")[2] for module in modules if module.startswith("training.")}
        assert imported <= named, f"{name}.py decides by these, too"


@pytest.mark.parametrize(("wrong", "said"), [({"precision": "fp16"}, "NaN"), ({"engine": "abacus"}, "torch or echo")])
def test_an_engine_or_precision_that_cannot_be_is_refused(
    tmp_path: Path, model: Path, wrong: dict[str, str], said: str
) -> None:
    with pytest.raises(EngineError, match=said):
        build_archive(str(model), tmp_path / "a.mar", **INPUTS | wrong)


def test_a_failed_build_leaves_the_archive_before(tmp_path: Path, model: Path) -> None:
    archive = tmp_path / "a.mar"
    build_archive(str(model), archive, **INPUTS)
    before = archive.read_bytes()
    (model / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors"):
        build_archive(str(model), archive, **INPUTS)
    assert archive.read_bytes() == before
    assert list(tmp_path.glob(".a.mar*")) == []


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint folder"):
        build_archive(str(tmp_path / "nowhere"), tmp_path / "a.mar", **INPUTS)


def test_an_archive_of_another_format_is_refused(tmp_path: Path, model: Path) -> None:
    build_archive(str(model), tmp_path / "a.mar", **INPUTS)
    with zipfile.ZipFile(tmp_path / "a.mar") as source, zipfile.ZipFile(tmp_path / "b.mar", "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "metadata.json":
                content = json.dumps(json.loads(content) | {"format_version": 99}).encode()
            target.writestr(name, content)
    with pytest.raises(ArchiveError, match="prompt format 99"):
        read_metadata(tmp_path / "b.mar")


def test_a_checkpoint_as_the_hub_has_it_is_converted(tmp_path: Path, hub_folder: Path) -> None:
    folder = resolve_checkpoint(str(hub_folder), tmp_path / "converted")
    tokenization = Tokenization(folder / "tokenizer.json")
    ids = tokenization.encode("The sea is blue. EOS The harbour")
    assert ids[-1] == 1
    added = json.loads((hub_folder / "added_tokens.json").read_text())
    assert ids.count(added["EOS"]) == 1
    assert tokenization.decode(ids) == "The sea is blue. The harbour"
    assert TorchEngine(folder, slots=1, max_new_tokens=4).description.eos_token_id == 1


def test_a_pickle_that_is_more_than_weights_is_not_run(tmp_path: Path, hub_folder: Path) -> None:
    ran = tmp_path / "ran"

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (ran,)

    (hub_folder / "pytorch_model.bin").write_bytes(pickle.dumps({"shared.weight": Trap()}))
    with pytest.raises(CheckpointError, match="not trusted"):
        resolve_checkpoint(str(hub_folder), tmp_path / "converted")
    assert not ran.exists()


def test_code_that_comes_with_a_tokenizer_is_not_run(tmp_path: Path, hub_folder: Path) -> None:
    ran, settings = tmp_path / "ran", hub_folder / "tokenizer_config.json"
    (hub_folder / "evil.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass Slow: ...\nclass Fast: ...\n")
    held = json.loads(settings.read_text())
    settings.write_text(json.dumps(held | {"auto_map": {"AutoTokenizer": ["evil.Slow", "evil.Fast"]}}))
    resolve_checkpoint(str(hub_folder), tmp_path / "converted")
    assert not ran.exists()
