"""Restructures a model into a smaller one: `python -m training.student --model FOLDER --output_dir FOLDER ...`.

Keeps some encoder and decoder layers, evenly spaced or named, and optionally the most used tokens. The student
is written, loaded again and asked a question before it is put in its place; distil it then, it needs it.
"""

import argparse
import sys
from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import T5ForConditionalGeneration

from handler.engines.base import EngineError
from training.checkpoint import CheckpointError, resolve_checkpoint
from training.data import DataError
from training.model_folder import load_model, save_model
from training.run_folder import RunFolderError
from training.serving import try_out
from training.text import TextError
from training.tokenizer import read_texts
from training.vocabulary import VocabularyError, trim


class StudentError(ValueError):
    """No student can be made as asked; the message says why."""


def choose_layers(wanted: str, there: int) -> list[int]:
    """Return which of `there` layers to keep: a number of them, evenly spaced, or their numbers from 0, as "0,2,5".

    Of several the first and the last are kept, of one the last. Raises StudentError.
    """
    try:
        numbers = [int(part) for part in wanted.split(",")]
    except ValueError as error:
        raise StudentError(f"layers {wanted!r}: give how many, as 6, or which, as 0,2,4") from error
    if "," not in wanted:
        (count,) = numbers
        if not 1 <= count <= there:
            raise StudentError(f"{count} layers cannot be kept of {there}")
        return [round(number * (there - 1) / (count - 1)) for number in range(count)] if count > 1 else [there - 1]
    if numbers != sorted(set(numbers)) or not 0 <= numbers[0] <= numbers[-1] < there:
        raise StudentError(f"layers {wanted}: name each once, in order, from 0 to {there - 1}")
    return numbers


def restructure(model: Any, encoder_layers: Sequence[int], decoder_layers: Sequence[int]) -> Any:
    """Return a T5 of the layers named by number. The position bias, which layer 0 holds for all, is kept."""
    config = deepcopy(model.config)
    config.num_layers, config.num_decoder_layers = len(encoder_layers), len(decoder_layers)
    student = T5ForConditionalGeneration(config)
    state = model.state_dict()
    chosen = {"encoder": encoder_layers, "decoder": decoder_layers}
    taken: dict[str, torch.Tensor] = {}
    for name, tensor in student.state_dict().items():
        parts = name.split(".")
        if len(parts) > 2 and parts[1] == "block" and "relative_attention_bias" not in parts:
            parts[2] = str(chosen[parts[0]][int(parts[2])])
        source = state[".".join(parts)]
        if source.shape != tensor.shape:
            raise StudentError(f"{name} has shape {tuple(source.shape)}, expected {tuple(tensor.shape)}")
        taken[name] = source
    student.load_state_dict(taken)
    return student


def keep_tokens(model: Any, old_ids: Sequence[int]) -> None:
    """Keep the embeddings and output rows of `old_ids` alone, in that order; special ids in the config follow."""
    new_ids = {old: new for new, old in enumerate(old_ids)}
    rows = torch.tensor(old_ids)
    with torch.no_grad():
        embedding, head = model.shared.weight[rows].clone(), model.lm_head.weight[rows].clone()
    model.resize_token_embeddings(len(old_ids), mean_resizing=False)
    with torch.no_grad():
        model.shared.weight.copy_(embedding)
        if not model.config.tie_word_embeddings:
            model.lm_head.weight.copy_(head)
    for config in (model.config, model.generation_config):
        for name in ("pad_token_id", "eos_token_id", "decoder_start_token_id", "bos_token_id"):
            if (old := getattr(config, name, None)) is not None:
                setattr(config, name, new_ids[old])


def refuse_overwriting(model: Path, output: Path) -> None:
    """Raise StudentError when `output`/model, which a student would replace, shares files with the folder `model`."""
    written, given = (output / "model").resolve(), model.resolve()
    if written.is_relative_to(given) or given.is_relative_to(written):
        raise StudentError(
            f"{output / 'model'} would be written over or into the teacher {model}; choose another folder"
        )


def make_student(
    model: Path, output: Path, encoder_layers: str, decoder_layers: str, vocabulary: int | None, texts: Sequence[Path]
) -> Path:
    """Write the student of the model folder `model` to `output`/model and return that folder.

    Raises StudentError, CheckpointError, RunFolderError, EngineError when the student is not served, and DataError or
    TextError for `texts`; what stood there is then kept.
    """
    refuse_overwriting(model, output)
    teacher, tokenizer = load_model(model)
    student = restructure(
        teacher,
        choose_layers(encoder_layers, teacher.config.num_layers),
        choose_layers(decoder_layers, teacher.config.num_decoder_layers),
    )
    if vocabulary:
        if not texts:
            raise StudentError("--vocabulary needs --texts, to see which tokens are used")
        trimmed = trim(tokenizer, read_texts(texts, 10_000_000), vocabulary)
        keep_tokens(student, trimmed.old_ids)
        tokenizer = trimmed.tokenizer
    ask = partial(try_out, engine="torch", precision="auto")
    folder = save_model(student, tokenizer, output / "model", try_out=ask)
    before, after = (sum(part.numel() for part in each.parameters()) / 1e6 for each in (teacher, student))
    print(
        f"{before:.1f} M parameters, {teacher.config.num_layers}+{teacher.config.num_decoder_layers} layers ->"
        f" {after:.1f} M, {student.config.num_layers}+{student.config.num_decoder_layers} layers"
    )
    return folder


def main() -> None:
    """Make a student from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.student", description="Make a smaller model of a model's layers and tokens."
    )
    parser.add_argument("--model", required=True, help="checkpoint folder or hub name of the teacher")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder to write; the student is model/ in it")
    layers = "how many to keep, evenly spaced (as 6), or which, from 0 (as 0,2,5)"
    parser.add_argument("--encoder_layers", required=True, help=layers)
    parser.add_argument("--decoder_layers", required=True, help=layers)
    parser.add_argument("--vocabulary", type=int, help="keep so many tokens at most (default: all)")
    parser.add_argument(
        "--texts", type=Path, nargs="+", default=[], help=".jsonl, .txt or .txt.zst: which tokens are used"
    )
    options = parser.parse_args()
    try:
        if Path(options.model).is_dir():  # else it is a hub name, and converting it writes beside the student
            refuse_overwriting(Path(options.model), options.output_dir)
        folder = resolve_checkpoint(options.model, options.output_dir / "converted")
        model = make_student(
            folder,
            options.output_dir,
            options.encoder_layers,
            options.decoder_layers,
            options.vocabulary,
            options.texts,
        )
    except (
        CheckpointError,
        DataError,
        EngineError,
        OSError,
        RunFolderError,
        StudentError,
        TextError,
        VocabularyError,
    ) as error:
        sys.exit(f"student: {' '.join(str(error).split())}")
    print(f"student: {model}; teach it with `python -m training.distil --student {model} --teacher {folder} ...`")


if __name__ == "__main__":
    main()
