"""What our engine loads of a benchmark's checkpoint: the checkpoint itself, or what `training.export` makes of it."""

import shutil
import subprocess
import sys
from pathlib import Path

from handler.engines import check_engine
from training.archive import code_sha256


def served_folder(checkpoint: Path, engine: str, precision: str) -> Path:
    """Return the folder for `load_engine(engine, precision, ...)`: what today's code exports, kept beside `checkpoint`.

    Raises EngineError for an unknown engine or precision, CalledProcessError when the export fails.
    """
    check_engine(engine, precision)
    if engine == "torch":
        return checkpoint
    # The code is in its name, so that a changed exporter is never measured with what the old one wrote.
    folder = checkpoint.parent / f"{engine}-{precision}-{code_sha256()[:8]}"
    if not folder.is_dir():
        for old in checkpoint.parent.glob(f"{engine}-{precision}*"):
            shutil.rmtree(old)
        # In a process of its own, whose memory is given back.
        command = [sys.executable, "-m", "training.export", "--model", str(checkpoint), "--output", str(folder)]
        subprocess.run([*command, "--engine", engine, "--precision", precision], check=True)
    return folder
