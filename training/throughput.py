"""How fast a recipe would train here: `python -m training.throughput RECIPE --peak_tflops 989`.

Tries each stage with batches of several sizes, compiled and not, fused and not (`training.model.fuse`), for some
seconds each, and prints tokens a second, the share of the device's peak, and how long the device waited for data.
Nothing of it stays. What comes out goes into the recipe's `tokens`, `fuse` and `compile`.
"""

import itertools
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from accelerate import Accelerator
from tokenizers import Tokenizer
from torch.utils.tensorboard import SummaryWriter  # noqa: F401 - imported here, or the first trial would pay for it

from training.batches import Share
from training.command_line import above_zero, whole
from training.curves import read_log
from training.losses import answer_objective
from training.mixtures import Material
from training.model import new_model
from training.pretrain import stage_source
from training.recipe import FAILURES, add_peak, recipe_parser, recipe_tokenizer, recipe_with_files, stage_plan
from training.train import new_accelerator, train

LOG_EVERY = 5
"""Steps a row; the first row of a trial, in which kernels are chosen, is not counted."""

WAYS: Final = {"no": [False], "yes": [True], "both": [False, True]}


def trials(
    recipe: Mapping[str, Any],
    material: Material,
    tokenizer: Tokenizer,
    folder: Path,
    *,
    sizes: Sequence[int],
    fused: Sequence[bool],
    compiled: Sequence[bool],
    seconds: float,
    peak_tflops: float,
) -> Iterator[dict[str, Any]]:
    """Yield, for each stage, size of batches and way of running, what was measured in so many seconds."""
    accelerator = new_accelerator()
    for number, stage in enumerate(recipe["stages"], start=1):
        for size, fuse, compile_ in itertools.product(sizes, fused, compiled):
            shape = stage.get("shape", {}) | {"tokens": size}
            tried = {**recipe, "stages": [*recipe["stages"]]}
            tried["stages"][number - 1] = stage | {"shape": shape}
            found = _trial(
                tried, number, material, tokenizer, folder, accelerator, fuse, compile_, seconds, peak_tflops
            )
            yield {"stage": stage["name"], "tokens": size, "fused": fuse, "compiled": compile_} | found


def _trial(
    recipe: Mapping[str, Any],
    number: int,
    material: Material,
    tokenizer: Tokenizer,
    folder: Path,
    accelerator: Accelerator,
    fused: bool,
    compiled: bool,
    seconds: float,
    peak_tflops: float,
) -> dict[str, Any]:
    model = new_model(tokenizer, seed=recipe["seed"], **recipe["model"])
    plan = replace(
        stage_plan(recipe, number, peak_tflops), minutes=seconds / 60, steps=0, log_every=LOG_EVERY, save_every=10**9
    )
    cuda = accelerator.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as scratch:
        try:
            train(
                model,
                stage_source(recipe, number, material, tokenizer, folder, Share()),
                answer_objective(recipe["stages"][number - 1].get("choice_weight", 0.0)),
                plan,
                Path(scratch),
                accelerator,
                fused=fused,
                compiled=compiled,
            )
        except torch.OutOfMemoryError:
            return {"failed": "out of memory"}
        finally:
            accelerator.free_memory()
        rows = [row for row in read_log(Path(scratch)) if row["step"] > LOG_EVERY]
    if not rows:
        return {"failed": f"fewer than {LOG_EVERY + 1} steps in {seconds:.0f} s"}
    # The last row holds the end of the time, and may be of a step or two.
    rows = rows[:-1] or rows
    means = {
        name: sum(row[name] for row in rows) / len(rows)
        for name in ("tokens_per_second", "waiting", "peak_share")
        if name in rows[0]
    }
    return means | ({"gigabytes": torch.cuda.max_memory_allocated() / 1e9} if cuda else {})


def main() -> None:
    """Try a recipe's throughput from the command line."""
    parser = recipe_parser("training.throughput", "Try how fast a recipe would train here, with several batch sizes.")
    add_peak(parser)
    parser.add_argument(
        "--tokens", type=whole(64), nargs="+", default=[32768, 65536, 131072], help="of a batch (default: %(default)s)"
    )
    parser.add_argument(
        "--fuse",
        choices=list(WAYS),
        default="no",
        help="attention and norms in one kernel each, on a GPU (default: %(default)s)",
    )
    parser.add_argument("--compile", choices=list(WAYS), default="both", help="by torch.compile (default: %(default)s)")
    parser.add_argument("--seconds", type=above_zero, default=120.0, help="in all, about (default: %(default)s)")
    options = parser.parse_args()
    fused, compiled = WAYS[options.fuse], WAYS[options.compile]
    try:
        recipe, data, text, folder = recipe_with_files(options)
        tokenizer = recipe_tokenizer(recipe["tokenizer"], data, text, folder)
        each = options.seconds / (len(recipe["stages"]) * len(options.tokens) * len(fused) * len(compiled))
        for row in trials(
            recipe,
            Material(data, text),
            tokenizer,
            folder,
            sizes=options.tokens,
            fused=fused,
            compiled=compiled,
            seconds=each,
            peak_tflops=options.peak_tflops,
        ):
            print("  ".join(f"{name} {_shown(value)}" for name, value in row.items()), flush=True)
    except FAILURES as error:
        sys.exit(f"throughput: {' '.join(str(error).split())}")
    except (KeyError, TypeError) as error:
        sys.exit(f"throughput: {options.recipe}: {error}")
    except KeyboardInterrupt:
        sys.exit("throughput: stopped")


def _shown(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3f}"


if __name__ == "__main__":
    main()
