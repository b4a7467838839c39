"""A tiny recipe on synthetic data: what the training tests run."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from training.model import new_model
from training.model_folder import save_model
from training.synthetic import write_synthetic
from training.tokenizer import read_texts, train_tokenizer


@pytest.fixture(autouse=True)
def _own_accelerator() -> None:
    """Let each test choose its precision, as each process of its own would."""
    AcceleratorState._reset_state(True)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with train.jsonl, validation.jsonl and text.txt."""
    write_synthetic(tmp_path / "data", 60, seed=0)
    return tmp_path / "data"


@pytest.fixture
def recipe() -> dict[str, Any]:
    """Two stages of a few steps on a model of a few thousand weights."""
    shape = {"tokens": 512, "prompt": 200, "target": 60, "pool": 32}
    plan = {"learning_rate": 0.003, "warmup": 2, "log_every": 2, "save_every": 3}
    return {
        "seed": 3,
        "threads": 1,
        "tokenizer": {"vocabulary": 640, "most_characters": 100_000, "files": ["train.jsonl"]},
        "model": {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 4, "num_decoder_layers": 1, "num_heads": 7},
        "stages": [
            {
                "name": "copy",
                "choice_weight": 0.5,
                "plan": plan | {"steps": 4},
                "shape": shape,
                "mixture": [
                    {"exercise": "open", "weight": 1, "sentences": 2, "words": 30},
                    {"exercise": "span", "weight": 1, "words": 30},
                ],
            },
            {
                "name": "answer",
                "choice_weight": 0.5,
                "plan": plan | {"steps": 8},
                "shape": shape,
                "mixture": [
                    {"exercise": "find", "weight": 1, "sentences": 3, "words": 40},
                    {"exercise": "records", "file": "train.jsonl", "weight": 2, "words": 40},
                ],
            },
        ],
    }


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of a few thousand random weights, circuits in place, with its own tokenizer."""
    folder = tmp_path_factory.mktemp("tiny")
    write_synthetic(folder / "data", 60, seed=0)
    tokenizer = train_tokenizer(read_texts([folder / "data" / "train.jsonl"], 100_000), 640)
    model = new_model(tokenizer, seed=0, d_model=32, d_kv=8, d_ff=32, num_layers=4, num_decoder_layers=2, num_heads=7)
    return save_model(model, tokenizer, folder / "model")


@pytest.fixture
def hub_folder(tmp_path: Path, tiny_model: Path) -> Path:
    """The tiny model's weights as the hub has such: a pickle of tensors, a SentencePiece model, added tokens."""
    folder = tmp_path / "hub"
    folder.mkdir()
    shutil.copy(tiny_model / "config.json", folder)
    state = load_file(tiny_model / "model.safetensors")
    state |= {f"{side}.embed_tokens.weight": state["shared.weight"] for side in ("encoder", "decoder")}
    torch.save(state | {"lm_head.weight": state["shared.weight"]}, folder / "pytorch_model.bin")
    text = folder / "text.txt"
    text.write_text("The sea is blue and deep. The old harbour lies in the north of the town.\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(folder / "spiece"),
        vocab_size=60,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    pieces = processor.get_piece_size() + 100  # T5 appends its hundred sentinels
    (folder / "added_tokens.json").write_text(json.dumps({"EOS": pieces, "<PAD>": pieces + 1}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer", "extra_ids": 100}))
    return folder
