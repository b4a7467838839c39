"""The folder that an engine loads, of any model: made where there is none."""

from pathlib import Path

from handler.contract.archive import ONNX_FILES, TOKENIZER_FILE
from handler.contract.generation import GenerationParameters
from handler.contract.prompt import render
from handler.engines import load_engine
from handler.scheduler import Scheduler
from handler.tokenization import Tokenization
from training.checkpoint import CheckpointError, resolve_checkpoint


def serving_folder(model: str, scratch: Path, *, engine: str, precision: str) -> Path:
    """Return a folder with what `engine` loads of `model`: a checkpoint folder, an export or a hub name.

    What must be made is made in `scratch`. Raises CheckpointError, EngineError or OSError.
    """
    folder = Path(model)
    if is_export(folder):
        if engine != "onnx":
            raise CheckpointError(
                f"{model} is an export for engine onnx; for {engine} give the checkpoint it was made of"
            )
        return folder
    checkpoint = resolve_checkpoint(model, scratch / "checkpoint")
    if engine != "onnx":
        return checkpoint
    # Not at the top: PyTorch takes seconds to import, and most calls of `make serve` need nothing made.
    from training.onnx_export import export_onnx

    export = scratch / "onnx"
    export.mkdir(parents=True)
    export_onnx(checkpoint, export, precision)
    return export


def try_out(folder: Path, *, engine: str, precision: str) -> None:
    """Have `engine` answer a question with the model in `folder`. Raises EngineError when it cannot serve it so."""
    if engine == "echo":
        return  # it loads no model
    scheduler = Scheduler(load_engine(engine, precision, folder, slots=1), prefill_tokens=1)
    question = Tokenization(folder / TOKENIZER_FILE).encode(render(["Is the sea blue?"], "The sea is blue."))
    scheduler.submit("trial", question, GenerationParameters(do_sample=False, max_length=4, min_length=0))
    while not scheduler.idle:
        scheduler.step()


def is_export(folder: Path) -> bool:
    """Return whether `folder` holds an export for engine onnx."""
    return all((folder / name).is_file() for name in ONNX_FILES)
