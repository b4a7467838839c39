"""A model folder (config.json, model.safetensors, tokenizer.json): read for training, written whole or not at all."""

import shutil
import tempfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import Tokenizer
from transformers import T5Config, T5ForConditionalGeneration
from transformers.utils.logging import disable_progress_bar

from handler.contract.archive import CHECKPOINT_FILES
from handler.engines.base import EngineError
from handler.engines.t5_geometry import T5Geometry
from training.checkpoint import CheckpointError
from training.run_folder import DivergedError, RunFolderError

# The library's bars for a file read in a second would break the bar of the run.
disable_progress_bar()  # type: ignore[no-untyped-call]

TOKENIZER: Final = "tokenizer.json"
DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16}


def load_model(folder: Path, config: Path | None = None) -> tuple[Any, Tokenizer]:
    """Return the model of `folder`, in float32 whatever it is stored in, and its tokenizer.

    `config`, a folder or file, replaces the folder's own config.json. Raises CheckpointError when a file is
    missing, cannot be read, or the weights are not those of a model of that shape, and, before the weights are read,
    when no engine would serve that shape.
    """
    for name in CHECKPOINT_FILES:
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name} is missing; a model folder holds {', '.join(CHECKPOINT_FILES)}")
    try:
        shape = T5Config.from_pretrained(config or folder)
        _refuse_unserved(shape, config or folder)
        loaded: Any = T5ForConditionalGeneration.from_pretrained(
            folder, config=shape, dtype=torch.float32, output_loading_info=True
        )
        model, found = loaded
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    except CheckpointError:
        raise
    except Exception as error:  # three libraries, a dozen kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{folder} cannot be loaded: {reason[:300]}") from error
    wrong = [*found["missing_keys"], *found["unexpected_keys"], *found["mismatched_keys"]]
    if wrong:
        raise CheckpointError(
            f"{folder / 'model.safetensors'} does not fit its config.json at {sorted(map(str, wrong))[0]}"
        )
    if tokenizer.get_vocab_size() > shape.vocab_size:
        raise CheckpointError(
            f"{folder / TOKENIZER} has {tokenizer.get_vocab_size()} tokens, the model {shape.vocab_size} embeddings"
        )
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return model, tokenizer


def _refuse_unserved(shape: T5Config, source: Path) -> None:
    """Raise CheckpointError when no engine would serve a model of this `shape`, read from `source`."""
    # What is asked is what a model folder will hold: `source` may lack what the library has by default.
    with tempfile.TemporaryDirectory() as scratch:
        shape.to_json_file(Path(scratch) / "config.json")
        try:
            T5Geometry.read(Path(scratch))
        except EngineError as error:
            reason = str(error).removeprefix(f"{Path(scratch) / 'config.json'}").lstrip(": ")
            raise CheckpointError(
                f"{source} would not be served: {reason}; take a T5 v1.0 or GODEL checkpoint"
            ) from error


def save_model(
    model: Any,
    tokenizer: Tokenizer,
    target: Path,
    precision: str = "fp32",
    try_out: Callable[[Path], object] = lambda _: None,
) -> Path:
    """Write `model` to the folder `target` and return it; weights are stored in `precision`, a key of DTYPES.

    Written beside it, loaded again and compared, given to `try_out`, and only then put in its place. Raises
    RunFolderError when that fails, and EngineError when `try_out` does; an earlier folder there is then untouched.
    """
    half = target.with_name(f".{target.name}.half")
    shutil.rmtree(half, ignore_errors=True)
    # A copy, since casting the model itself would cost a run that goes on its precision.
    stored = model if precision == "fp32" else deepcopy(model).to(DTYPES[precision])
    try:
        half.mkdir(parents=True)
        stored.save_pretrained(half)
        tokenizer.save(str(half / TOKENIZER))
        again, _ = load_model(half)
        for (name, kept), read in zip(stored.state_dict().items(), again.state_dict().values(), strict=True):
            if kept.isnan().any():
                raise DivergedError(target, f"{name} holds what is no number")
            if not torch.equal(kept.float().cpu(), read):
                raise RunFolderError(f"{half}: {name} is not what was saved")
        try_out(half)
        shutil.rmtree(target, ignore_errors=True)
        half.rename(target)
    except RunFolderError:
        raise
    except EngineError:
        shutil.rmtree(half, ignore_errors=True)
        raise
    except Exception as error:  # a full disk is an OSError, a RuntimeError or the writer's own kind
        shutil.rmtree(half, ignore_errors=True)
        raise RunFolderError(f"{target} cannot be written ({error}); what stood there is kept") from error
    return target
