"""What every engine promises, and how near each is to `transformers`' numbers."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.models.t5.modeling_t5 import T5Attention

from handler.engines import load_engine
from handler.engines.base import Engine, EngineError
from handler.engines.row_blocks import find_row_block
from handler.engines.t5_geometry import T5Geometry, relative_bucket
from handler.engines.torch_engine import TorchEngine

MakeEngine = Callable[..., Engine]


@pytest.fixture(params=["onnx-int8", "onnx-int4", "torch-fp32", "torch-bf16", "echo-auto"])
def make_engine(request: pytest.FixtureRequest, exports: dict[str, Path]) -> MakeEngine:
    name, precision = request.param.split("-")
    folder = exports[request.param]

    def make(slots: int = 8) -> Engine:
        options = {} if name == "echo" else {"device": "cpu", "max_prompt_tokens": 64, "max_new_tokens": 32}
        return load_engine(name, precision, folder, slots=slots, **options)

    return make


def prompts(count: int, seed: int = 0) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [[*random.integers(4, 94, random.integers(1, 60)).tolist(), 1] for _ in range(count)]


def greedy(engine: Engine, slot: int, prompt: Sequence[int], length: int = 12) -> list[int]:
    engine.encode(slot, prompt)
    tokens = [engine.description.decoder_start_token_id]
    for _ in range(length):
        tokens.append(int(engine.step([slot], tokens[-1:])[0].argmax()))
    engine.release(slot)
    return tokens[1:]


def test_logits_have_one_row_a_slot_and_one_column_a_token(make_engine: MakeEngine) -> None:
    engine = make_engine()
    for slot, prompt in enumerate(prompts(3)):
        engine.encode(slot, prompt)
    logits = engine.step([2, 0, 1], [0, 0, 0])
    assert logits.shape == (3, engine.description.vocabulary)
    assert logits.dtype == np.float32


def test_logits_are_the_same_bits_alone_and_in_any_company(make_engine: MakeEngine) -> None:
    alone, shared = make_engine(), make_engine()
    for slot, prompt in enumerate(prompts(8)):
        shared.encode(slot, prompt)
    order = [3, 1, 4, 0, 5, 2, 6]
    together = shared.step(order, [0] * len(order)).copy()
    for row, slot in enumerate(order):
        alone.encode(slot, prompts(8)[slot])
        assert np.array_equal(alone.step([slot], [0])[0], together[row])
        alone.release(slot)


def test_a_draft_gives_the_bits_of_one_token_at_a_time(make_engine: MakeEngine) -> None:
    engine = make_engine()
    tokens = [0, 9, 30, 4, 77, 5]
    for prompt in prompts(3):
        engine.encode(2, prompt)
        one_by_one = np.concatenate([engine.step([2], [token]).copy() for token in tokens])
        engine.release(2)
        engine.encode(0, prompt)
        before = engine.step([0], tokens[:1]).copy()
        drafted = engine.extend(0, tokens[1:])
        assert np.array_equal(np.concatenate([before, drafted]), one_by_one)
        engine.release(0)


def test_a_rewound_draft_leaves_no_trace(make_engine: MakeEngine) -> None:
    engine = make_engine()
    (prompt,) = prompts(1)
    engine.encode(0, prompt)
    expected = [engine.step([0], [token])[0].copy() for token in (0, 9, 30)]
    engine.release(0)
    engine.encode(0, prompt)
    engine.extend(0, [0, 9, 55, 56, 57])
    engine.rewind(0, 3)
    assert np.array_equal(engine.step([0], [30])[0], expected[2])


def test_a_step_of_some_slots_leaves_the_others_where_they_are(make_engine: MakeEngine) -> None:
    engine, alone = make_engine(), make_engine()
    for slot, prompt in enumerate(prompts(4)):
        engine.encode(slot, prompt)
    engine.step([0, 1, 2, 3], [0, 0, 0, 0])
    engine.step([3, 1], [9, 9])
    alone.encode(0, prompts(4)[2])
    alone.step([0], [0])
    assert np.array_equal(engine.step([2], [30])[0], alone.step([0], [30])[0])


def test_requests_that_join_and_leave_between_steps_answer_as_if_alone(make_engine: MakeEngine) -> None:
    engine = make_engine(slots=3)
    expected = [greedy(make_engine(), 0, prompt) for prompt in prompts(7)]
    answers: dict[int, list[int]] = {}
    waiting, live = list(enumerate(prompts(7))), dict[int, int]()
    while waiting or live:
        for slot in sorted({0, 1, 2} - live.keys())[:1]:
            if waiting:
                number, prompt = waiting.pop(0)
                live[slot] = number
                answers[number] = [0]
                engine.encode(slot, prompt)
        slots = sorted(live, reverse=True)
        logits = engine.step(slots, [answers[live[slot]][-1] for slot in slots])
        for slot, row in zip(slots, logits, strict=True):
            answers[live[slot]].append(int(row.argmax()))
            if len(answers[live[slot]]) == 13:
                engine.release(slot)
                del live[slot]
    assert [answers[number][1:] for number in range(7)] == expected


def test_a_released_slot_forgets_its_prompt(make_engine: MakeEngine) -> None:
    engine = make_engine(slots=1)
    first, second = prompts(2)
    expected = greedy(make_engine(slots=1), 0, second)
    greedy(engine, 0, first)
    assert greedy(engine, 0, second) == expected


def test_fp32_greedy_tokens_are_those_of_transformers(checkpoint: Path, reference: Any) -> None:
    engine = TorchEngine(checkpoint, slots=1, precision="fp32")
    for prompt in prompts(6):
        expected = reference.generate(torch.tensor([prompt]), max_new_tokens=12, min_new_tokens=12, do_sample=False)
        logits = reference(input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([[0]])).logits[0, 0]
        engine.encode(0, prompt)
        np.testing.assert_allclose(engine.step([0], [0])[0], logits.detach().numpy(), rtol=1e-4, atol=1e-4)
        engine.release(0)
        without_end = [token for token in greedy(engine, 0, prompt) if token != 1]
        assert without_end[:6] == [token for token in expected[0, 1:].tolist() if token != 1][:6]


def test_an_export_of_another_precision_is_refused(exports: dict[str, Path]) -> None:
    with pytest.raises(EngineError, match="exported in int8, not int4"):
        load_engine("onnx", "int4", exports["onnx-int8"], slots=1)


def test_the_onnx_engine_says_that_it_leaves_the_gpu_alone(exports: dict[str, Path]) -> None:
    description = load_engine("onnx", "auto", exports["onnx-int8"], slots=1, device="gpu", gpu_id=0).description
    assert description.device == "cpu"
    assert "ENGINE=torch" in (description.device_note or "")


def test_numbers_near_nothing_are_zeros_to_the_onnx_engine_and_to_threads_begun_after_it(
    exports: dict[str, Path],
) -> None:
    # In a process of its own: the first session of one decides.
    program = """
import pathlib, sys, threading
import numpy
from handler.engines import load_engine
load_engine("onnx", "int8", pathlib.Path(sys.argv[1]), slots=1)
threading.Thread(target=lambda: print(numpy.float32(1e-40) * numpy.float32(1))).start()
"""
    command = [sys.executable, "-c", program, str(exports["onnx-int8"])]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "0.0\n"


@pytest.mark.parametrize("file", ["encoder.onnx", "decoder.onnx", "embedding.npy", "decoder_bias.npy"])
def test_an_export_that_is_cut_short_names_the_file(exports: dict[str, Path], tmp_path: Path, file: str) -> None:
    folder = tmp_path / "export"
    shutil.copytree(exports["onnx-int8"], folder)
    (folder / file).write_bytes((folder / file).read_bytes()[:100])
    with pytest.raises(EngineError, match=file):
        load_engine("onnx", "int8", folder, slots=1)


def test_where_rows_depend_on_their_number_steps_are_filled_up_and_drafts_are_off(
    exports: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handler.engines.onnx_engine.np.array_equal", lambda *_: False)
    engine = load_engine("onnx", "int8", exports["onnx-int8"], slots=4)
    monkeypatch.undo()
    assert engine.description.draft_tokens == 0
    engine.encode(3, prompts(2)[1])
    assert engine.extend(3, [0, 9, 30]).shape == (3, engine.description.vocabulary)
    engine.release(3)
    usual = load_engine("onnx", "int8", exports["onnx-int8"], slots=4)
    assert greedy(engine, 0, prompts(1)[0]) == greedy(usual, 0, prompts(1)[0])


def test_a_missing_gpu_is_reported_and_the_cpu_serves(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    engine = TorchEngine(checkpoint, slots=1, device="gpu", gpu_id=0)
    assert engine.description.device == "cpu"
    assert engine.description.device_note is not None
    assert "running on the CPU" in engine.description.device_note


def test_fp16_is_refused_with_its_reason(checkpoint: Path) -> None:
    with pytest.raises(EngineError, match="NaN"):
        load_engine("torch", "fp16", checkpoint, slots=1)


def test_an_unknown_engine_names_the_known_ones(checkpoint: Path) -> None:
    with pytest.raises(EngineError, match="onnx or torch or echo"):
        load_engine("abacus", "auto", checkpoint, slots=1)


def test_a_checkpoint_without_weights_names_the_file(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    with pytest.raises(EngineError, match=r"model\.safetensors"):
        TorchEngine(tmp_path, slots=1)


def test_weights_that_disagree_with_the_config_name_the_tensor(checkpoint: Path, tmp_path: Path) -> None:
    config = (checkpoint / "config.json").read_text().replace('"num_layers": 3', '"num_layers": 4')
    (tmp_path / "config.json").write_text(config)
    (tmp_path / "model.safetensors").symlink_to(checkpoint / "model.safetensors")
    with pytest.raises(EngineError, match=r"encoder\.block\.3"):
        TorchEngine(tmp_path, slots=1)


def test_a_config_that_is_no_t5_names_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(EngineError, match="d_model"):
        T5Geometry.read(tmp_path)


def test_buckets_are_those_of_transformers() -> None:
    transformers_attention: Any = T5Attention
    distances = torch.arange(-300, 301)
    for bidirectional in (True, False):
        expected = transformers_attention._relative_position_bucket(distances, bidirectional, 32, 128).tolist()
        ours = [
            relative_bucket(int(distance), bidirectional=bidirectional, buckets=32, max_distance=128)
            for distance in distances
        ]
        assert ours == expected


def test_row_blocks_fall_back_to_all_slots_where_rows_depend_on_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("handler.engines.row_blocks._rows_are_independent", lambda *_: False)
    assert find_row_block([torch.zeros(4, 4)], slots=6) == 6
