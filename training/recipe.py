"""A recipe for a model from nothing: read from the command line, its tokenizer, and the plans of its stages."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from safetensors.torch import load, save
from tokenizers import Tokenizer
from torch import Tensor

from training.command_line import above_zero
from training.data import DataError
from training.mixtures import RecipeError
from training.model_folder import TOKENIZER
from training.plan import Plan
from training.run_folder import STATE, RunFolderError, keep_options
from training.text import TextError
from training.tokenizer import read_texts, train_tokenizer
from training.whole_file import write_whole
from training.word_vectors import word_vectors

FAILURES: Final = (DataError, RecipeError, RunFolderError, TextError, OSError, ValueError, yaml.YAMLError)
"""What a person can mend; printed as one line."""


_PACE: Final = frozenset({"log_every", "save_every", "save_seconds"})
"""What of a stage's plan may change between a run and its resumption."""


def stage_plan(recipe: Mapping[str, Any], number: int, peak_tflops: float = 0.0) -> Plan:
    """Return the plan of the recipe's stage of this number, from 1."""
    return Plan(seed=recipe["seed"] + number, peak_tflops=peak_tflops, **recipe["stages"][number - 1]["plan"])


def recipe_tokenizer(settings: Mapping[str, Any], data: Path, text: list[Path], folder: Path) -> Tokenizer:
    """Return the run's tokenizer; it is trained where `folder` has none yet.

    Raises RunFolderError when that of `folder` was made by other settings.
    """
    path = folder / TOKENIZER
    keep_options(folder, {"tokenizer": settings}, begun=path.is_file())
    if not path.is_file():
        files = [data / name for name in settings["files"]] + text
        tokenizer = train_tokenizer(read_texts(files, settings["most_characters"]), settings["vocabulary"])
        write_whole({path: tokenizer.to_str()})
    return Tokenizer.from_file(str(path))


def recipe_vectors(recipe: Mapping[str, Any], text: list[Path], tokenizer: Tokenizer, folder: Path) -> Tensor | None:
    """Return vectors of the run's tokens, if the recipe wants any; they are made where `folder` has none yet.

    Raises RunFolderError when those of `folder` were made by other settings, or its stages began with others.
    """
    settings, path = recipe.get("word_vectors"), folder / "word_vectors.safetensors"
    made_of = settings and settings | {"d_model": recipe["model"]["d_model"], "seed": recipe["seed"]}
    keep_options(folder, {"word_vectors": made_of}, begun=path.is_file() or bool(begun_stages(folder)))
    if not settings:
        return None
    if not path.is_file():
        texts = read_texts(text, settings["most_characters"])
        vectors = word_vectors(texts, tokenizer, recipe["model"]["d_model"], seed=recipe["seed"])
        write_whole({path: save({"vectors": vectors})})
    return load(path.read_bytes())["vectors"]


def begun_stages(folder: Path) -> list[str]:
    """Return the folders' names of the stages that a run in `folder` has a checkpoint of."""
    return sorted(path.parent.name for path in folder.glob(f"[0-9]*-*/{STATE}"))


def keep_stage(folder: Path, stage: Mapping[str, Any], plan: Plan, files: Mapping[str, Path]) -> None:
    """Write down what the stage in `folder` is made of, `files` with their contents, or check that it goes on so.

    Raises RunFolderError naming what differs.
    """
    settings = {name: value for name, value in stage["plan"].items() if name not in _PACE}
    if plan.minutes:
        settings["minutes"] = plan.minutes  # of the run's time, where that was given
    keep_options(folder, {**stage, "plan": settings}, files=files, begun=(folder / STATE).is_file())


def recipe_parser(module: str, description: str) -> argparse.ArgumentParser:
    """Return a parser of what every command over a recipe takes."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.add_argument("recipe", type=Path, help="a YAML file, see training/recipes")
    parser.add_argument("--data", type=Path, help="folder of .jsonl records (default: the recipe's)")
    parser.add_argument("--text", type=Path, nargs="*", help=".txt or .txt.zst files (default: the recipe's)")
    parser.add_argument("--output_dir", type=Path, help="run folder (default: build/runs/<recipe>)")
    return parser


def recipe_with_files(options: argparse.Namespace) -> tuple[dict[str, Any], Path, list[Path], Path]:
    """Return the recipe that a command line names, its data folder, its text files and the run folder."""
    recipe = yaml.safe_load(options.recipe.read_text(encoding="utf-8"))
    data = options.data or Path(recipe["data"])
    text = options.text if options.text is not None else [data / name for name in recipe.get("text", [])]
    return recipe, data, text, options.output_dir or Path("build/runs") / options.recipe.stem


def add_peak(parser: argparse.ArgumentParser) -> None:
    """Let `parser` take the device's peak."""
    parser.add_argument(
        "--peak_tflops",
        type=above_zero,
        default=0.0,
        metavar="N",
        help="the device's dense bf16 peak in TFLOP/s (989 for an H100 or H200): the log then tells the share used",
    )
