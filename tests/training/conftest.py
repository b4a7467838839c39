"""A tiny recipe on synthetic data: what the training tests run."""

from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState

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
        "model": {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 4, "num_decoder_layers": 1, "num_heads": 6},
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
    model = new_model(tokenizer, seed=0, d_model=32, d_kv=8, d_ff=32, num_layers=4, num_decoder_layers=2, num_heads=6)
    return save_model(model, tokenizer, folder / "model")
