"""Trains a small model from nothing by a recipe: `python -m training.pretrain training/recipes/embedded.yaml`.

Stages run in order, each in a folder of its own under the run folder; a run that was cut short goes on where
it stood. The result is `model/` there.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Tokenizer

from training.batches import BatchShape, Drawn, Share
from training.data import DataError
from training.losses import answer_objective
from training.mixtures import RecipeError, build_mixture
from training.model import new_model
from training.model_folder import TOKENIZER, save_model
from training.run_folder import RunFolderError
from training.text import TextError
from training.tokenizer import read_texts, train_tokenizer
from training.train import Plan, new_accelerator, train
from training.whole_file import write_whole


def pretrain(recipe: Mapping[str, Any], *, data: Path, text: list[Path], folder: Path) -> Path:
    """Run `recipe` in `folder` and return the model folder. Raises what its parts raise, each with its file named."""
    torch.set_num_threads(recipe.get("threads") or torch.get_num_threads())
    accelerator = new_accelerator()
    with accelerator.main_process_first():
        tokenizer = _tokenizer(recipe["tokenizer"], data, text, folder)
    model: Any = new_model(tokenizer, seed=recipe["seed"], **recipe["model"])
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    accelerator.print(f"{parameters:.1f} M parameters, {tokenizer.get_vocab_size()} tokens")
    share = Share(accelerator.process_index, accelerator.num_processes)
    for number, stage in enumerate(recipe["stages"], start=1):
        seed = recipe["seed"] + number
        exercise = build_mixture(stage["mixture"], data, text)
        source = Drawn(exercise, tokenizer, BatchShape(**stage.get("shape", {})), seed, share)
        objective = answer_objective(stage.get("choice_weight", 0.0))
        plan = Plan(seed=seed, **stage["plan"])
        progress = train(model, source, objective, plan, folder / f"{number}-{stage['name']}", accelerator)
        accelerator.print(f"{stage['name']}: {plan.steps} steps, last loss {progress.loss:.3f}")
    if accelerator.is_main_process:
        save_model(accelerator.unwrap_model(model), tokenizer, folder / "model", recipe.get("store", "fp32"))
    accelerator.wait_for_everyone()
    return folder / "model"


def _tokenizer(settings: Mapping[str, Any], data: Path, text: list[Path], folder: Path) -> Tokenizer:
    path = folder / TOKENIZER
    if not path.is_file():
        files = [data / name for name in settings["files"]] + text
        tokenizer = train_tokenizer(read_texts(files, settings["most_characters"]), settings["vocabulary"])
        write_whole({path: tokenizer.to_str()})
    return Tokenizer.from_file(str(path))


def main() -> None:
    """Run a recipe from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.pretrain", description="Train a small model from nothing by a recipe, resumably."
    )
    parser.add_argument("recipe", type=Path, help="a YAML file, see training/recipes")
    parser.add_argument("--data", type=Path, help="folder of .jsonl records (default: the recipe's)")
    parser.add_argument("--text", type=Path, nargs="*", help=".txt or .txt.zst files (default: the recipe's)")
    parser.add_argument("--output_dir", type=Path, help="run folder (default: build/runs/<recipe>)")
    options = parser.parse_args()
    try:
        recipe = yaml.safe_load(options.recipe.read_text(encoding="utf-8"))
        folder = options.output_dir or Path("build/runs") / options.recipe.stem
        data = options.data or Path(recipe["data"])
        text = options.text if options.text is not None else [data / name for name in recipe.get("text", [])]
        model = pretrain(recipe, data=data, text=text, folder=folder)
    except (DataError, RecipeError, RunFolderError, TextError, OSError, ValueError, yaml.YAMLError) as error:
        sys.exit(f"pretrain: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        sys.exit("pretrain: stopped; the same command goes on from the last saved state")
    except (KeyError, TypeError) as error:
        sys.exit(f"pretrain: {options.recipe}: {error}")
    print(f"trained: {model}")


if __name__ == "__main__":
    main()
