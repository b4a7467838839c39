"""Makes of any checkpoint the folder an engine serves: `python -m training.export --model NAME --output FOLDER`.

Takes folders laid out like the hub's or ours, and hub names. For engine onnx it writes ONNX graphs with 8- or 4-bit
weights, for torch a checkpoint folder in fp32 or bf16. What it writes is asked a question by the engine before it is
put in its place; `make archive MODEL=FOLDER` packs it, or the checkpoint itself.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Final

from handler.contract.archive import CHECKPOINT_FILES, GENERATION_CONFIG, ONNX_FILES
from handler.engines import DEFAULT_ENGINE, ENGINES, check_engine
from handler.engines.base import EngineError
from training.checkpoint import CheckpointError, resolve_checkpoint
from training.model_folder import load_model, save_model
from training.run_folder import RunFolderError
from training.serving import is_export, serving_folder, try_out

_WRITTEN: Final = {*ONNX_FILES, *CHECKPOINT_FILES, GENERATION_CONFIG}


def export(model: str, output: Path, *, engine: str = DEFAULT_ENGINE, precision: str = "auto") -> float:
    """Write `model`, in `precision`, to the folder `output` for `engine`; return its size in MB.

    "auto" is int8 for onnx and fp32 for torch. Raises CheckpointError when `model` cannot be read, EngineError when
    the engine cannot serve it, and RunFolderError or OSError when it cannot be written, or `output` is anything but an
    earlier export; it is then left as it was.
    """
    check_engine(engine, precision)
    if is_export(Path(model)):
        raise CheckpointError(f"{model} is an export already; give the checkpoint it was made of")
    output = output.resolve()
    if output == Path(model).resolve():
        raise RunFolderError(f"{model} is the checkpoint itself; give another folder to write")
    if foreign := _foreign(output):
        raise RunFolderError(f"{output} holds {foreign}, which is no part of an export; give another folder")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as scratch:
        if engine == "onnx":
            made = serving_folder(model, Path(scratch), engine=engine, precision=precision)
        else:
            loaded, tokenizer = load_model(resolve_checkpoint(model, Path(scratch) / "checkpoint"))
            stored = "fp32" if precision == "auto" else precision
            made = save_model(loaded, tokenizer, Path(scratch) / "stored", stored)
        try_out(made, engine=engine, precision="auto")
        _put_in_place(made, output, Path(scratch) / "earlier")
    return sum(path.stat().st_size for path in output.iterdir()) / 1e6


def _foreign(output: Path) -> str | None:
    """Return the name of something in the way that no export wrote."""
    if not output.exists():
        return None
    if not output.is_dir():
        return "a file"
    return min((path.name for path in output.iterdir() if path.name not in _WRITTEN or path.is_dir()), default=None)


def _put_in_place(made: Path, output: Path, earlier: Path) -> None:
    """Put the folder `made` where `output` is, and that at `earlier`. All three are on one file system."""
    if output.exists():
        output.rename(earlier)
    try:
        made.rename(output)
    except OSError:
        if earlier.exists():
            earlier.rename(output)
        raise


def main() -> None:
    """Export from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.export", description="Make the folder an engine serves of any T5/GODEL checkpoint."
    )
    parser.add_argument(
        "--model", required=True, help="checkpoint folder, laid out like the hub's or ours, or hub name"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    engines = sorted(ENGINES.keys() - {"echo"})
    parser.add_argument("--engine", default=DEFAULT_ENGINE, choices=engines, help="(default: %(default)s)")
    parser.add_argument(
        "--precision",
        default="auto",
        help="onnx: int8 (auto) or int4; torch: fp32 (auto) or bf16 (default: %(default)s)",
    )
    options = parser.parse_args()
    try:
        size = export(options.model, options.output, engine=options.engine, precision=options.precision)
    except (CheckpointError, EngineError, OSError, RunFolderError) as error:
        sys.exit(f"export: {' '.join(str(error).split())}")
    print(f"exported {options.output} ({size:.1f} MB): {options.engine}, {options.precision}")


if __name__ == "__main__":
    main()
