"""Makes of any checkpoint the folder an engine serves: `python -m training.export --model NAME --output FOLDER`.

Takes folders laid out like the hub's or ours, and hub names. What it writes is asked a question by the engine
before it is put in its place; `make archive MODEL=FOLDER` packs it.
"""

import argparse
import sys
from pathlib import Path

from handler.contract.prompt import render
from handler.engines import ENGINES
from handler.engines.base import EngineError
from training.answers import Answerer
from training.checkpoint import CheckpointError, resolve_checkpoint
from training.model_folder import DTYPES, load_model, save_model
from training.run_folder import RunFolderError


def export(model: str, output: Path, *, engine: str = "torch", precision: str = "fp32") -> float:
    """Write `model`, stored in `precision`, to the folder `output` for `engine`; return its size in MB.

    Raises CheckpointError when `model` cannot be read, EngineError when the engine cannot serve it, and
    RunFolderError when it cannot be written.
    """
    folder = resolve_checkpoint(model, output.with_name(f".{output.name}.converted"))
    loaded, tokenizer = load_model(folder)
    save_model(loaded, tokenizer, output, precision)
    Answerer(output, engine)([render(["Is the sea blue?"], "The sea is blue.")])
    return sum(path.stat().st_size for path in output.iterdir()) / 1e6


def main() -> None:
    """Export from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.export", description="Make the folder an engine serves of any T5/GODEL checkpoint."
    )
    parser.add_argument(
        "--model", required=True, help="checkpoint folder, laid out like the hub's or ours, or hub name"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--engine", default="torch", choices=sorted(ENGINES), help="(default: %(default)s)")
    parser.add_argument(
        "--precision", default="fp32", choices=sorted(DTYPES), help="of the stored weights (default: %(default)s)"
    )
    options = parser.parse_args()
    try:
        size = export(options.model, options.output, engine=options.engine, precision=options.precision)
    except (CheckpointError, EngineError, OSError, RunFolderError) as error:
        sys.exit(f"export: {' '.join(str(error).split())}")
    print(f"exported {options.output} ({size:.1f} MB): {options.engine}, {options.precision}")


if __name__ == "__main__":
    main()
