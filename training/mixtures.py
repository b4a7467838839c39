"""From a recipe's list of exercises to one mixture to draw from."""

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from training.batches import Exercise, Mixture
from training.data import Pair, Record, read_records, to_pair, trim_knowledge
from training.tasks import PassageSource, sentence_from_opening, sentence_from_words, span_corruption
from training.text import read_documents


class RecipeError(ValueError):
    """A recipe asks for something that is not there; the message names the entry."""


def build_mixture(entries: Sequence[Mapping[str, Any]], data: Path, text: Sequence[Path]) -> Mixture:
    """Return the mixture of `entries`; a record file is looked up in `data`, exercises on text draw from `text`.

    An entry has `exercise` (open, find, span or records), `weight`, and what the exercise takes: `sentences`
    and `words` at most in a passage; for records `file`, and optionally `instructions` to choose from.
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
    """Draw from a file of records: passages cut to `words`, the last few turns, one of `instructions`."""
    records = read_records(data / entry["file"])
    words, turns = entry["words"], entry.get("turns", 5)
    instructions = entry.get("instructions", [None])

    def draw(rng: random.Random) -> Pair:
        record = rng.choice(records)
        kept = Record(record.turns[-turns:], record.knowledge, record.response, record.answer)
        if kept.knowledge:
            kept = trim_knowledge(kept, rng.randint(min(20, words), words), rng)
        return to_pair(kept, rng.choice(instructions) if kept.knowledge else None)

    return draw
