"""From a recipe's list of exercises to one mixture to draw from."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from training.batches import Exercise, Mixture
from training.data import Record, read_records
from training.facts import FactSource
from training.grounded import Draw, RecordSource
from training.tasks import PassageSource, sentence_from_opening, sentence_from_words, span_corruption
from training.text import read_documents

_Made = TypeVar("_Made")


class RecipeError(ValueError):
    """A recipe asks for something that is not there; the message names the entry."""


class Material:
    """Record files and text, each read when it is first asked for and kept: several stages draw from the same."""

    def __init__(self, data: Path, text: Sequence[Path]) -> None:
        """A record file is looked up in the folder `data`; exercises on text draw from the files `text`."""
        self._data, self._text = data, text
        self._records: dict[str, list[Record]] = {}
        self._passages: PassageSource | None = None

    def records(self, file: str) -> list[Record]:
        """Return the records of `file`. Raises DataError."""
        if file not in self._records:
            self._records[file] = read_records(self._data / file)
        return self._records[file]

    def passages(self) -> PassageSource:
        """Return the text as passages. Raises TextError."""
        if self._passages is None:
            self._passages = PassageSource(document for path in self._text for document in read_documents(path))
        return self._passages

    def files(self, stage: Mapping[str, Any]) -> dict[str, Path]:
        """Return the files that a recipe's stage draws from, by their names."""
        entries = stage.get("mixture", ())
        files = {entry["file"]: self._data / entry["file"] for entry in entries if "file" in entry}
        if "spans" in stage or any(entry.get("exercise") in _ON_TEXT for entry in entries):
            files |= {path.name: path for path in self._text}
        return files


def build_mixture(entries: Sequence[Mapping[str, Any]], material: Material) -> Mixture:
    """Return the mixture of `entries` over `material`.

    An entry has `exercise` (open, find, span, facts or records), `weight`, and what the exercise takes: `sentences`
    and `words` at most in a passage; for facts what `training.facts.FactSource` takes; for records `file`, and what
    `training.grounded.Draw` has.
    """
    weighted: list[tuple[float, Exercise]] = []
    for entry in entries:
        kind = str(entry.get("exercise"))
        if kind == "records":
            weighted.append((entry["weight"], _records(entry, material)))
        elif kind == "facts":
            weighted.append((entry["weight"], _options(FactSource, entry)))
        elif kind in _ON_TEXT:
            weighted.append((entry["weight"], _ON_TEXT[kind](material.passages(), entry)))
        else:
            raise RecipeError(f"exercise {kind!r} is not known; use records, facts or {', '.join(_ON_TEXT)}")
    return Mixture(weighted)


def _open(source: PassageSource, entry: Mapping[str, Any]) -> Exercise:
    return lambda rng: sentence_from_opening(source, rng, entry["sentences"], entry["words"])


def _find(source: PassageSource, entry: Mapping[str, Any]) -> Exercise:
    return lambda rng: sentence_from_words(source, rng, entry["sentences"], entry["words"])


def _span(source: PassageSource, entry: Mapping[str, Any]) -> Exercise:
    return lambda rng: span_corruption(source, rng, entry["words"])


_ON_TEXT: Mapping[str, Callable[[PassageSource, Mapping[str, Any]], Exercise]] = {
    "open": _open,
    "find": _find,
    "span": _span,
}


def _records(entry: Mapping[str, Any], material: Material) -> Exercise:
    return RecordSource(material.records(entry["file"]), _options(Draw, entry))


def _options(make: Callable[..., _Made], entry: Mapping[str, Any]) -> _Made:
    """Return what `make` makes of the entry's own options. Raises RecipeError for one that it does not have."""
    try:
        return make(**{key: value for key, value in entry.items() if key not in ("exercise", "file", "weight")})
    except TypeError as error:
        raise RecipeError(f"{entry['exercise']} of {entry.get('file', 'made-up subjects')}: {error}") from error
