"""Runs a recipe from data to a model folder: `python -m training.run training/recipes/small.yaml`.

Stages run in order, each in a folder of its own under the run folder; a run that was cut short goes on where
it stood. The model folder (config.json, model.safetensors, tokenizer.json) is loaded again before it is done.
"""

import argparse
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Tokenizer
from transformers import T5ForConditionalGeneration

from training.batches import BatchShape
from training.data import DataError, read_records
from training.evaluate import evaluate
from training.mixtures import RecipeError, build_mixture
from training.model import new_model
from training.run_folder import RunFolderError
from training.synthetic import write_synthetic
from training.text import TextError
from training.tokenizer import read_texts, train_tokenizer
from training.train import Plan, train

TOKENIZER = "tokenizer.json"
MOST_EVALUATED = 200


def run(recipe: Mapping[str, Any], *, data: Path, text: list[Path], folder: Path) -> Path:
    """Run `recipe` in `folder` and return the model folder. Raises what its parts raise, each with its file named."""
    torch.set_num_threads(recipe.get("threads") or torch.get_num_threads())
    tokenizer = _tokenizer(recipe["tokenizer"], data, text, folder)
    model: Any = new_model(tokenizer.get_vocab_size(), seed=recipe["seed"], **recipe["model"])
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, {tokenizer.get_vocab_size()} tokens")
    for number, stage in enumerate(recipe["stages"], start=1):
        plan = Plan(seed=recipe["seed"] + number, shape=BatchShape(**stage.get("shape", {})), **stage["plan"])
        exercise = build_mixture(stage["mixture"], data, text)
        loss = train(model, tokenizer, exercise, plan, folder / f"{number}-{stage['name']}")
        print(f"{stage['name']}: {plan.steps} steps, last loss {loss:.3f}")
    published = _publish(model, folder)
    for name in recipe.get("evaluate", []):
        table, _ = evaluate(read_records(data / name)[:MOST_EVALUATED], published, "torch", "auto")
        for kind, row in table.items():
            print(f"{name}, {kind}: " + ", ".join(f"{key} {value:.3f}" for key, value in row.items()))
    return published


def _tokenizer(settings: Mapping[str, Any], data: Path, text: list[Path], folder: Path) -> Tokenizer:
    path = folder / TOKENIZER
    if not path.is_file():
        files = [data / name for name in settings["files"]] + text
        tokenizer = train_tokenizer(read_texts(files, settings["most_characters"]), settings["vocabulary"])
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer.save(str(path))
    return Tokenizer.from_file(str(path))


def _publish(model: Any, folder: Path) -> Path:
    """Write the model folder beside its place, load it again, and only then put it there."""
    half, target = folder / ".model.half", folder / "model"
    shutil.rmtree(half, ignore_errors=True)
    model.eval().save_pretrained(half)
    shutil.copyfile(folder / TOKENIZER, half / TOKENIZER)
    again: Any = T5ForConditionalGeneration.from_pretrained(half)
    for (name, before), after in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        if not torch.equal(before, after):
            raise RunFolderError(f"{half}: {name} is not what was saved")
    shutil.rmtree(target, ignore_errors=True)
    half.rename(target)
    return target


def main() -> None:
    """Run a recipe from the command line."""
    parser = argparse.ArgumentParser(description="Train a model by a recipe, resumably.")
    parser.add_argument("recipe", type=Path, help="a YAML file, see training/recipes")
    parser.add_argument("--data", type=Path, help="folder of .jsonl records (default: the recipe's)")
    parser.add_argument("--text", type=Path, nargs="*", help=".txt or .txt.zst files (default: the recipe's)")
    parser.add_argument("--run", type=Path, help="run folder (default: build/runs/<recipe>)")
    options = parser.parse_args()
    try:
        recipe = yaml.safe_load(options.recipe.read_text(encoding="utf-8"))
        folder = options.run or Path("build/runs") / options.recipe.stem
        if count := recipe.get("synthetic"):
            data = folder / "synthetic"
            write_synthetic(data, count, recipe["seed"])
        else:
            data = options.data or Path(recipe["data"])
        text = options.text if options.text is not None else [data / name for name in recipe.get("text", [])]
        model = run(recipe, data=data, text=text, folder=folder)
    except (DataError, RecipeError, RunFolderError, TextError, OSError, yaml.YAMLError) as error:
        sys.exit(f"train: {error}")
    except KeyError as error:
        sys.exit(f"train: {options.recipe} lacks {error.args[0]!r}")
    print(f"trained: {model}")


if __name__ == "__main__":
    main()
