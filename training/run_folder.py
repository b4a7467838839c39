"""A run folder: what a training stage writes, so that a kill at any point costs at most one interval.

A checkpoint is written beside its place, forced to disk and then renamed: it is whole or not there.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch

from training.checkpoint import sha256
from training.whole_file import write_whole

STATE: Final = "state.pt"
OPTIONS: Final = "options.json"
_CONTENTS: Final = "sha256"


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


def keep_options(
    folder: Path, options: Mapping[str, Any], *, files: Mapping[str, Path] | None = None, begun: bool = True
) -> None:
    """Write down what a run is made of, or check that it goes on with the same.

    Of `files`, by what each is to the run, the contents count. Where nothing is `begun` yet, what was written down
    before is replaced. What a run of an earlier release did not write down is taken as it is now.
    Raises RunFolderError naming what differs, and when the folder cannot be written.
    """
    path = folder / OPTIONS
    made_of = json.loads(json.dumps(options, default=str))
    try:
        if files:
            made_of[_CONTENTS] = {name: sha256(file) for name, file in files.items()}
        kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if begun:
            for name in made_of.keys() & kept.keys():
                for part, before, now in _differences(name, kept[name], made_of[name]):
                    raise RunFolderError(
                        f"{folder} was begun with {_in_words(part, before, now, files or {})}; go on with the same, or"
                        " choose another folder (--output_dir)"
                    )
        # Where several processes come here, the first has written it: two at once would be in each other's way.
        if kept | made_of != kept:
            write_whole({path: json.dumps(kept | made_of, indent=1) + "\n"})
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read or written: {error}") from error


def _differences(name: str, before: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield what differs, down to the single setting: its name, as in `plan.steps`, and both its values."""
    if isinstance(before, list) and isinstance(now, list):
        before, now = dict(enumerate(before, start=1)), dict(enumerate(now, start=1))
    if isinstance(before, dict) and isinstance(now, dict):
        for part in before | now:
            yield from _differences(f"{name}.{part}", before.get(part), now.get(part))
    elif before != now:
        yield name, before, now


def _in_words(name: str, before: Any, now: Any, files: Mapping[str, Path]) -> str:
    kind, _, file = name.partition(".")
    if kind != _CONTENTS:
        return f"{name} {before}, not {now}"
    if now is None:
        return f"{file}, which are not there now"
    return f"other {file} than {files[file]} holds now" if before else f"no {file}, not with {files[file]}"
