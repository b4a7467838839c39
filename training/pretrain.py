"""Trains a small model from nothing by a recipe: `python -m training.pretrain training/recipes/medium.yaml`.

Stages run in order, each in a folder of its own under the run folder; a run that was cut short goes on where
it stood, by the same recipe: only stages that have not begun may be changed, and others added after them. `model/`
there holds the model after the last stage that has ended, in the end the mean of what the last stages ended with, as
many as the recipe's `average` says. A stage is bounded by steps, or by minutes: then its learning rate falls with the
clock, and it ends in time on any machine.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch.optim.swa_utils import AveragedModel

from training.batches import BatchShape, Drawn, Share, Source
from training.command_line import above_zero
from training.losses import answer_objective
from training.mixtures import Material, RecipeError, build_mixture
from training.model import new_model
from training.model_folder import save_model
from training.recipe import (
    FAILURES,
    add_peak,
    begun_stages,
    keep_stage,
    recipe_parser,
    recipe_tokenizer,
    recipe_vectors,
    recipe_with_files,
    stage_plan,
)
from training.run_folder import RunFolderError, keep_options
from training.shards import Stored, shard_folder
from training.train import new_accelerator, train


def pretrain(
    recipe: Mapping[str, Any],
    *,
    data: Path,
    text: list[Path],
    folder: Path,
    minutes: float | None = None,
    peak_tflops: float = 0.0,
) -> Path:
    """Run `recipe` in `folder` and return the model folder. Raises what its parts raise, each with its file named.

    Raises RunFolderError, naming what differs, when a run in `folder` was begun by another recipe: with another model,
    or other stages that are begun. Others may be added or changed, and so may `average`.
    `minutes` is the time of all stages together that are bounded by time: each gets its part of it. `peak_tflops`
    is as in Plan.
    """
    averaged = _averaged(recipe)
    folders = [folder / f"{number}-{stage['name']}" for number, stage in enumerate(recipe["stages"], start=1)]
    _check_stages(folder, folders)
    torch.set_num_threads(recipe.get("threads") or torch.get_num_threads())
    accelerator = new_accelerator()
    with accelerator.main_process_first():
        tokenizer = recipe_tokenizer(recipe["tokenizer"], data, text, folder)
        vectors = recipe_vectors(recipe, text, tokenizer, folder)
    model: Any = new_model(tokenizer, seed=recipe["seed"], vectors=vectors, **recipe["model"])
    if accelerator.is_main_process:
        keep_options(
            folder,
            {"model": recipe["model"], "seed": recipe["seed"], "num_processes": accelerator.num_processes},
            begun=bool(begun_stages(folder)),
        )
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    accelerator.print(f"{parameters:.1f} M parameters, {tokenizer.get_vocab_size()} tokens")
    mean = AveragedModel(model, accelerator.device)
    share = Share(accelerator.process_index, accelerator.num_processes)
    material, pace = Material(data, text), _pace(recipe, minutes)

    def save() -> None:
        if accelerator.is_main_process:
            save_model(accelerator.unwrap_model(model), tokenizer, folder / "model", recipe.get("store", "fp32"))
        accelerator.wait_for_everyone()

    for number, stage in enumerate(recipe["stages"], start=1):
        plan = stage_plan(recipe, number, peak_tflops)
        plan = replace(plan, minutes=plan.minutes * pace)
        source = stage_source(recipe, number, material, tokenizer, folder, share)
        if accelerator.is_main_process:  # rows made beforehand know what they were made of
            keep_stage(folders[number - 1], stage, plan, {} if "rows" in stage else material.files(stage))
        progress = train(
            model,
            source,
            answer_objective(stage.get("choice_weight", 0.0)),
            plan,
            folders[number - 1],
            accelerator,
            fused=bool(recipe.get("fuse")),
            compiled=bool(recipe.get("compile")),
        )
        accelerator.print(f"{stage['name']}: {progress.step} steps, last loss {progress.loss:.3f}")
        if number > len(folders) - averaged:
            mean.update_parameters(model)
        # A run that never ends leaves a model to go on with. One that goes on has that of a later stage already.
        if number < len(folders) and not any(later.exists() for later in folders[number:]):
            save()
    model.load_state_dict(mean.module.state_dict())
    save()
    return folder / "model"


def stage_source(
    recipe: Mapping[str, Any], number: int, material: Material, tokenizer: Tokenizer, folder: Path, share: Share
) -> Source:
    """Return where the stage takes its batches from: rows made beforehand, if it wants `rows`, or drawn as it goes."""
    stage, seed = recipe["stages"][number - 1], recipe["seed"] + number
    shape = BatchShape(**stage.get("shape", {}))
    if "rows" in stage:
        return Stored(shard_folder(folder, number, stage), shape, seed, share)
    if "spans" in stage:
        raise RecipeError(f"{stage['name']}: spans are made beforehand; say how many `rows` the stage wants")
    return Drawn(build_mixture(stage["mixture"], material), tokenizer, shape, seed, share)


def _averaged(recipe: Mapping[str, Any]) -> int:
    """Return how many stages' ends the model is the mean of. Raises RecipeError when there are not as many."""
    averaged, stages = recipe.get("average", 1), len(recipe["stages"])
    if averaged not in range(1, max(1, stages) + 1):  # without a stage the model is as it was made
        raise RecipeError(f"average: {averaged!r} is no number of stages; there are {stages}")
    return int(averaged)


def _check_stages(folder: Path, folders: Sequence[Path]) -> None:
    """Raise RunFolderError when a stage has begun in `folder` that is none of those in `folders`."""
    for name in begun_stages(folder):
        if folder / name not in folders:
            raise RunFolderError(
                f"{folder} was begun with a stage {name}, which the recipe does not have there; go on with the same"
                " stages, or choose another folder (--output_dir)"
            )


def _pace(recipe: Mapping[str, Any], minutes: float | None) -> float:
    """Return by what to multiply the minutes of each stage. Raises RecipeError when none is bounded by time."""
    if minutes is None:
        return 1.0
    planned = sum(stage["plan"].get("minutes", 0.0) for stage in recipe["stages"])
    if not planned:
        raise RecipeError("--minutes: no stage of this recipe has minutes in its plan")
    return float(minutes / planned)


def main() -> None:
    """Run a recipe from the command line."""
    parser = recipe_parser("training.pretrain", "Train a small model from nothing by a recipe, resumably.")
    parser.add_argument(
        "--minutes",
        type=above_zero,
        metavar="N",
        help="of training, all stages together: each gets its part (default: the recipe's, if it has any)",
    )
    add_peak(parser)
    options = parser.parse_args()
    try:
        recipe, data, text, folder = recipe_with_files(options)
        model = pretrain(
            recipe, data=data, text=text, folder=folder, minutes=options.minutes, peak_tflops=options.peak_tflops
        )
    except FAILURES as error:
        sys.exit(f"pretrain: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        sys.exit("pretrain: stopped; the same command goes on from the last saved state")
    except (KeyError, TypeError) as error:
        sys.exit(f"pretrain: {options.recipe}: {error}")
    print(f"trained: {model}")


if __name__ == "__main__":
    main()
