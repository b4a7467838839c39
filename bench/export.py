"""What our engine loads of a benchmark's checkpoint: the checkpoint itself, or what `training.export` makes of it."""

import subprocess
import sys
from pathlib import Path

from handler.engines import check_engine


def served_folder(checkpoint: Path, engine: str, precision: str) -> Path:
    """Return the folder for `load_engine(engine, precision, ...)`, exported once and kept beside `checkpoint`.

    Raises EngineError for an unknown engine or precision, CalledProcessError when the export fails.
    """
    check_engine(engine, precision)
    if engine == "torch":
        return checkpoint
    folder = checkpoint.parent / f"{engine}-{precision}"
    if not folder.is_dir():
        # In a process of its own, whose memory is given back.
        command = [sys.executable, "-m", "training.export", "--model", str(checkpoint), "--output", str(folder)]
        subprocess.run([*command, "--engine", engine, "--precision", precision], check=True)
    return folder
