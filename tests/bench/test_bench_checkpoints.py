"""The checkpoints that are measured: prompts of exact lengths, numbers that are numbers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from bench.checkpoints import GEOMETRIES, checkpoint
from bench.export import served_folder
from bench.prompts import prompt_ids, words
from bench.stack import MESSAGE_WORDS
from handler.contract.prompt import render
from handler.engines import load_engine
from handler.tokenization import Tokenization

VOCABULARY = GEOMETRIES["tiny"].vocabulary


@pytest.mark.parametrize("tokens", [2, 64, 450, 1024])
def test_a_prompt_has_exactly_the_tokens_asked_as_ids_and_as_text(tiny: Path, tokens: int) -> None:
    ids = prompt_ids(tokens, VOCABULARY, seed=3)
    assert len(ids) == tokens
    assert Tokenization(tiny / "tokenizer.json").encode(words(tokens - 1, VOCABULARY, seed=3)) == ids


def test_the_rendered_prompt_grows_by_one_token_a_word(tiny: Path) -> None:
    encode = Tokenization(tiny / "tokenizer.json").encode
    fixed = len(encode(render(["w99"], "w99"))) - 2
    rendered = render([words(MESSAGE_WORDS, VOCABULARY, 1)], words(100, VOCABULARY, 2))
    assert len(encode(rendered)) == fixed + MESSAGE_WORDS + 100


def test_the_vocabulary_is_that_of_the_geometry(tiny: Path) -> None:
    config: dict[str, Any] = json.loads((tiny / "config.json").read_text())
    assert config["vocab_size"] == VOCABULARY == Tokenizer.from_file(str(tiny / "tokenizer.json")).get_vocab_size()


def test_logits_are_finite_and_spread_as_promised(tiny: Path) -> None:
    engine = load_engine("torch", "fp32", tiny, slots=1)
    engine.encode(0, prompt_ids(450, VOCABULARY, seed=1))
    logits = engine.step([0], [engine.description.decoder_start_token_id])
    assert np.isfinite(logits).all()
    assert 3 < logits.std() < 5


def test_a_checkpoint_is_built_once_and_alike_everywhere(tiny: Path, tmp_path: Path) -> None:
    again = checkpoint("tiny", tmp_path)
    weights = again / "model.safetensors"
    assert weights.read_bytes() == (tiny / "model.safetensors").read_bytes()
    before = weights.stat().st_mtime_ns
    assert checkpoint("tiny", tmp_path) == again
    assert weights.stat().st_mtime_ns == before


def test_the_student_has_the_layers_it_is_described_with(tmp_path: Path) -> None:
    config: dict[str, Any] = json.loads((checkpoint("tiny-mini", tmp_path) / "config.json").read_text())
    assert (config["num_layers"], config["num_decoder_layers"]) == (1, 1)


def test_an_export_is_kept_until_the_code_that_makes_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = checkpoint("tiny", tmp_path)
    first = served_folder(tiny, "onnx", "int8")
    written = (first / "decoder.onnx").stat().st_mtime_ns
    assert served_folder(tiny, "onnx", "int8") == first
    assert (first / "decoder.onnx").stat().st_mtime_ns == written
    monkeypatch.setattr("bench.export.code_sha256", lambda: "of another exporter")
    second = served_folder(tiny, "onnx", "int8")
    assert second != first
    assert second.is_dir()
    assert not first.exists()
