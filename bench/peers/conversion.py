"""A checkpoint in a peer's own format: made once, in a process that ends, so that its memory is not the peer's."""

import shutil
import subprocess
import sys
from pathlib import Path


def converted(checkpoint: Path, name: str, module: str) -> Path:
    """Return the folder `name` beside the folder `checkpoint`, made unless there by `python -m module FROM TO`.

    Raises RuntimeError with the converter's last line when it fails; nothing half-made is kept.
    """
    folder = checkpoint.parent / name
    if folder.is_dir():
        return folder
    half = folder.with_name(f".{name}.half")
    shutil.rmtree(half, ignore_errors=True)
    command = [sys.executable, "-m", module, str(checkpoint), str(half)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        shutil.rmtree(half, ignore_errors=True)
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise RuntimeError(f"{module} cannot convert {checkpoint}: {lines[-1]}")
    half.rename(folder)
    return folder
