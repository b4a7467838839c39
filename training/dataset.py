"""Where a data set's files are: a folder by the names its files have, or files named one by one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from training.data import DataError

_SPLITS: Final = {"train": ("train",), "validation": ("validation", "val", "valid", "dev"), "test": ("test",)}
_SCRIPT: Final = "_dataset.py"


def find_splits(name: str | None, config: str | None, files: Mapping[str, Path]) -> dict[str, Path]:
    """Return the files of train, validation and test, those that there are; `files` come before the folder's.

    `name` is a folder of `train.jsonl` or `NAME_train.jsonl` and the like, `config` a folder within it. GODEL
    names a loading script, `NAME_dataset.py`: it is not run, the files beside it that it would read are taken.
    Raises DataError when a file or the training data is not there, or a folder has several to choose from.
    """
    found: dict[str, Path] = {}
    if name:
        place, stem = Path(name), "*"
        if name.endswith(_SCRIPT):
            place, stem = place.parent, place.name.removesuffix(_SCRIPT)
        if config:
            place = place / config
        if not place.is_dir():
            raise DataError(
                f"there is no folder {place}; --dataset_name takes a folder of JSON-lines files"
                " (`python -m training.data --help` makes one), not a data set of a hub"
            )
        for split, words in _SPLITS.items():
            if path := _find(place, stem, words):
                found[split] = path
    found |= files
    for path in found.values():
        if not path.is_file():
            raise DataError(f"there is no file {path}")
    if "train" not in found:
        raise DataError(f"{name} holds no train.jsonl, and no --train_file was given")
    return found


def _find(folder: Path, stem: str, words: tuple[str, ...]) -> Path | None:
    plain = [folder / f"{word}.jsonl" for word in words if stem == "*"]
    named = [path for word in words for path in sorted(folder.glob(f"{stem}_{word}.jsonl"))]
    there = [path for path in plain if path.is_file()] or named
    if len(there) > 1:
        raise DataError(
            f"{folder} holds {', '.join(path.name for path in there)}; name the one to use, as in --{words[0]}_file"
        )
    return there[0] if there else None
