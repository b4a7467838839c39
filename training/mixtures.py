"""From a recipe's list of exercises to one mixture to draw from."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from training.batches import Exercise, Mixture
from training.data import read_records
from training.grounded import Draw, RecordSource
from training.tasks import PassageSource, sentence_from_opening, sentence_from_words, span_corruption
from training.text import read_documents


class RecipeError(ValueError):
    """A recipe asks for something that is not there; the message names the entry."""


def build_mixture(entries: Sequence[Mapping[str, Any]], data: Path, text: Sequence[Path]) -> Mixture:
    """Return the mixture of `entries`; a record file is looked up in `data`, exercises on text draw from `text`.

    An entry has `exercise` (open, find, span or records), `weight`, and what the exercise takes: `sentences`
    and `words` at most in a passage; for records `file`, and what `training.grounded.Draw` has.
    """
    source: PassageSource | None = None
    weighted: list[tuple[float, Exercise]] = []
    for entry in entries:
        kind = str(entry.get("exercise"))
        if kind == "records":
            weighted.append((entry["weight"], _records(entry, data)))
            continue
        if kind not in _ON_TEXT:
            raise RecipeError(f"exercise {kind!r} is not known; use records or {', '.join(_ON_TEXT)}")
        if source is None:
            source = PassageSource([document for path in text for document in read_documents(path)])
        weighted.append((entry["weight"], _ON_TEXT[kind](source, entry)))
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


def _records(entry: Mapping[str, Any], data: Path) -> Exercise:
    options = {key: value for key, value in entry.items() if key not in ("exercise", "file", "weight")}
    try:
        draw = Draw(**options)
    except TypeError as error:
        raise RecipeError(f"records of {entry['file']}: {error}") from error
    return RecordSource(read_records(data / entry["file"]), draw)
