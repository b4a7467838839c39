"""What export makes for the ONNX engine answers like the model it was made of."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from handler.contract.archive import ONNX_FILES
from handler.contract.generation import GenerationParameters
from handler.contract.prompt import render
from handler.engines import load_engine
from handler.engines.base import EngineError
from handler.engines.torch_engine import TorchEngine
from handler.scheduler import Scheduler
from handler.tokenization import Tokenization
from training.checkpoint import CheckpointError
from training.export import export
from training.quantization import BLOCK, by_block, by_channel
from training.run_folder import RunFolderError

EMBEDDED = Path("models/embedded")
CRICKET = Path("examples/cricket.txt").read_text(encoding="utf-8")
QUESTIONS = ("How long is the pitch?", "What is a wicket?", "How many players are in each team?")


@pytest.fixture(scope="module")
def exact() -> Iterator[TorchEngine]:
    threads = torch.get_num_threads()
    yield TorchEngine(EMBEDDED, slots=1, precision="fp32")
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("precision", "least"), [("int8", 0.995), ("int4", 0.98)])
def test_quantised_logits_follow_those_of_fp32(
    tmp_path: Path, exact: TorchEngine, precision: str, least: float
) -> None:
    export(str(EMBEDDED), tmp_path / "export", precision=precision)
    assert {path.name for path in (tmp_path / "export").iterdir()} == {*ONNX_FILES, "generation_config.json"}
    engine = load_engine("onnx", precision, tmp_path / "export", slots=1)
    tokenization = Tokenization(EMBEDDED / "tokenizer.json")
    for question in QUESTIONS:
        prompt = tokenization.encode(render([question], CRICKET))[-500:]
        token, correlations = 0, []
        exact.encode(0, prompt)
        engine.encode(0, prompt)
        for _ in range(12):
            wanted, given = exact.step([0], [token])[0], engine.step([0], [token])[0]
            correlations.append(np.corrcoef(wanted, given)[0, 1])
            token = int(wanted.argmax())
        exact.release(0)
        engine.release(0)
        assert min(correlations) > least


@pytest.mark.parametrize("parameters", [{"do_sample": False}, {"seed": 3}, {"seed": 4, "no_repeat_ngram_size": 3}])
def test_with_drafts_and_without_an_answer_is_the_same(tmp_path: Path, parameters: dict[str, Any]) -> None:
    export(str(EMBEDDED), tmp_path / "export")
    engine = load_engine("onnx", "int8", tmp_path / "export", slots=1)
    tokenization = Tokenization(EMBEDDED / "tokenizer.json")
    drafted = plain = 0
    for question in QUESTIONS:
        prompt = tokenization.encode(render([question], CRICKET))[-500:]
        answers = []
        for drafts in (True, False):
            scheduler = Scheduler(engine, prefill_tokens=512, drafts=drafts)
            scheduler.submit("only", prompt, GenerationParameters.from_mapping({"max_length": 48, **parameters}))
            while not (finished := scheduler.step()):
                pass
            answers += finished
        assert list(answers[0].tokens) == list(answers[1].tokens)
        drafted, plain = drafted + answers[0].steps, plain + answers[1].steps
    assert drafted < plain


def test_an_export_cannot_be_exported_again(tmp_path: Path) -> None:
    export(str(EMBEDDED), tmp_path / "export")
    with pytest.raises(CheckpointError, match="an export already"):
        export(str(tmp_path / "export"), tmp_path / "again")


def test_nothing_but_an_earlier_export_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "keep" / "sub").mkdir(parents=True)
    (tmp_path / "keep" / "thesis.txt").write_text("years of work")
    for folder, said in (("keep", "holds sub, which"), ("keep/thesis.txt", "holds a file")):
        with pytest.raises(RunFolderError, match=said):
            export(str(EMBEDDED), tmp_path / folder)
    assert (tmp_path / "keep" / "thesis.txt").read_text() == "years of work"
    shutil.copytree(EMBEDDED, tmp_path / "own", ignore=shutil.ignore_patterns("README.md"))
    with pytest.raises(RunFolderError, match="the checkpoint itself"):
        export(str(tmp_path / "own"), tmp_path / "own", precision="int4")
    assert (tmp_path / "own" / "model.safetensors").read_bytes() == (EMBEDDED / "model.safetensors").read_bytes()


def test_an_export_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    for engine in ("onnx", "torch", "onnx"):
        export(str(EMBEDDED), tmp_path / "export", engine=engine)
    assert {*ONNX_FILES, "generation_config.json"} == {path.name for path in (tmp_path / "export").iterdir()}
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_a_precision_of_another_engine_names_the_right_ones(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="auto or int8 or int4"):
        export(str(EMBEDDED), tmp_path / "export", engine="onnx", precision="bf16")


def test_a_failed_export_leaves_the_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(str(EMBEDDED), tmp_path / "export")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "export").iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("training.onnx_export.onnx.save", full)
    with pytest.raises(OSError, match="No space left"):
        export(str(EMBEDDED), tmp_path / "export", precision="int4")
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "export").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_blocks_are_rounded_to_a_step_and_padded_with_nothing() -> None:
    weight = np.random.default_rng(0).standard_normal((5, 100)).astype(np.float32)
    values, scales = by_block(weight)
    assert values.shape == (5, -(-100 // BLOCK), BLOCK // 2)
    unpacked = np.stack([values & 15, values >> 4], axis=-1).reshape(*values.shape[:2], BLOCK)
    restored = ((unpacked.astype(np.float32) - 8) * scales[..., None]).reshape(5, -1)
    assert np.abs(restored[:, :100] - weight).max() <= np.abs(scales).max() * 1.3
    assert not restored[:, 100:].any()


def test_channels_are_rounded_to_the_nearest_step() -> None:
    weight = np.random.default_rng(0).standard_normal((7, 33)).astype(np.float32)
    weight[3] = 0
    values, scales = by_channel(weight)
    assert values.shape == (33, 7)
    assert np.abs((values * scales).T - weight).max() <= scales.max() * 0.501
