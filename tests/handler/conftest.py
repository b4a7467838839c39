"""A tiny random T5 checkpoint with a tokenizer, made once for all handler tests, and what engines load of it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import T5Config, T5ForConditionalGeneration

from training.export import export

WORDS = [f"w{number}" for number in range(90)]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder laid out like `models/embedded`: config.json, model.safetensors, tokenizer.json."""
    folder = tmp_path_factory.mktemp("checkpoint")
    vocabulary = {word: index for index, word in enumerate(["<pad>", "</s>", "<unk>", "EOS", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))  # noqa: S106 - a token of text
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>", "EOS"])
    tokenizer.save(str(folder / "tokenizer.json"))
    config_class: Any = T5Config
    config = config_class(
        vocab_size=96,
        d_model=64,
        d_kv=16,
        d_ff=128,
        num_layers=3,
        num_decoder_layers=2,
        num_heads=4,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    torch.manual_seed(7)
    model: Any = T5ForConditionalGeneration(config)
    with torch.no_grad():
        # Wider than the initialisation, so that answers differ from prompt to prompt and end at different times.
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3.0)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def reference(checkpoint: Path) -> Any:
    """The same checkpoint in `transformers`, what the engines are held against."""
    model: Any = T5ForConditionalGeneration.from_pretrained(checkpoint)
    return model.eval()


@pytest.fixture(scope="session")
def exports(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The checkpoint as each engine and precision loads it, by "engine-precision"."""
    folders = {"torch-fp32": checkpoint, "torch-bf16": checkpoint, "echo-auto": checkpoint}
    for precision in ("int8", "int4"):
        folders[f"onnx-{precision}"] = tmp_path_factory.mktemp("exports") / precision
        export(str(checkpoint), folders[f"onnx-{precision}"], engine="onnx", precision=precision)
    return folders
