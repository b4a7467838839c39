"""A run folder: what a training stage writes, so that a kill at any point costs at most one interval.

A checkpoint is written beside its place, forced to disk and then renamed: it is whole or not there.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch

from training.whole_file import write_whole

STATE: Final = "state.pt"
OPTIONS: Final = "options.json"


class RunFolderError(RuntimeError):
    """A run folder cannot be used; the message names the file and what to do."""


class DivergedError(RunFolderError):
    """Training has led to what is no number, and no further step would mend it."""

    def __init__(self, folder: Path, found: str) -> None:
        super().__init__(
            f"{folder}: {found}: training has diverged; begin again in another folder with a lower learning rate"
        )


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write `state` as the folder's checkpoint. Raises RunFolderError, the one before untouched, when it cannot."""
    path, half = folder / STATE, folder / f".{STATE}.half"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with half.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        half.replace(path)
    except (OSError, RuntimeError) as error:  # a full disk is a RuntimeError of torch's zip writer
        half.unlink(missing_ok=True)
        raise RunFolderError(f"{path} cannot be written ({error}); the checkpoint before it is kept") from error


def load_state(folder: Path) -> dict[str, Any] | None:
    """Return the folder's checkpoint, or None where there is none yet. Raises RunFolderError when it is broken."""
    path = folder / STATE
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for a file that is not its own
        raise RunFolderError(f"{path} cannot be read ({error}); delete the folder to start over") from error
    return state


def keep_options(folder: Path, options: Mapping[str, Any]) -> None:
    """Write down what a run was begun with, or check that it goes on with the same.

    Raises RunFolderError naming what differs, and when the folder cannot be written.
    """
    path = folder / OPTIONS
    options = json.loads(json.dumps(options, default=str))
    try:
        if path.is_file():
            begun = json.loads(path.read_text(encoding="utf-8"))
            for name, value in options.items():
                if begun.get(name) != value:
                    raise RunFolderError(
                        f"{folder} was begun with {name} {begun.get(name)}, not {value}; go on with the same, or"
                        " choose another folder"
                    )
            return
        write_whole({path: json.dumps(options, indent=1) + "\n"})
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read or written: {error}") from error
