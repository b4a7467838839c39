"""Grounded records: read and checked at the door, then rendered to what the model reads and writes.

A record is one JSON object a line: `Context` (turns joined by " EOS "), `Knowledge` (may be empty) and
`Response`, all strings; `Answer`, where known, is the short span that a right response must hold.

`python -m training.data --help` makes such files of other formats (training/prepare.py).
"""

import json
import random
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from handler.contract.prompt import TURN_SEPARATOR, neutralise, render
from training.text import sentences

_KINDS: Final[dict[type, str]] = {
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    list: "a list",
    object: "a value",
}
_HALF_CHARACTER: Final = re.compile("[\ud800-\udfff]")
Kind = TypeVar("Kind")


class DataError(ValueError):
    """A data file cannot be used; the message names the file and, where it can, line and field."""


@dataclass(frozen=True, slots=True)
class Record:
    """One grounded exchange; `turns` oldest first, the newest user turn last."""

    turns: tuple[str, ...]
    knowledge: str
    response: str
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """What the model reads and what it should write, as text; the tokenizer adds the end token to both."""

    prompt: str
    target: str
    grounds: str | None = None
    """The part of the knowledge that the target was made from, where it is not a copy of it; "" if there is none."""


def read_records(path: Path) -> list[Record]:
    """Return the records of a JSON-lines file. Raises DataError on the first bad one, and when there is none."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    records = [_record(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not records:
        raise DataError(f"{path} holds no record")
    return records


def to_line(record: Record) -> str:
    """Return `record` as the line that `read_records` reads it from, without the line's end.

    Turns are neutralised as the prompt would, so that a turn's own " EOS " cannot become another turn.
    """
    row = {
        "Context": f" {TURN_SEPARATOR} ".join(neutralise(turn) for turn in record.turns),
        "Knowledge": record.knowledge,
        "Response": record.response,
    }
    return json.dumps(row | ({} if record.answer is None else {"Answer": record.answer}), ensure_ascii=False)


def read_json(path: Path) -> Any:
    """Return what the JSON file `path` holds. Raises DataError when it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from error


def field(row: Any, name: str, kind: type[Kind], where: str) -> Kind:
    """Return `row[name]`, a `kind`. Raises DataError saying `where` and what was found instead."""
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected a JSON object, found {type(row).__name__}")
    if name not in row:
        raise DataError(f"{where}: field {name!r} is missing; expected {_KINDS[kind]}")
    value = row[name]
    if not isinstance(value, kind):
        raise DataError(f"{where}: field {name!r} must be {_KINDS[kind]}, found {type(value).__name__}")
    if isinstance(value, str) and _HALF_CHARACTER.search(value):
        raise DataError(f"{where}: field {name!r} holds half of a surrogate pair, which no file can store")
    return value


def to_pair(record: Record, instruction: str | None = None) -> Pair:
    """Return the rendered prompt and the target of `record`; `instruction` None means the contract's default."""
    return Pair(render(record.turns, record.knowledge, instruction), neutralise(record.response))


def trim_knowledge(record: Record, most_words: int, rng: random.Random) -> Record:
    """Return `record` with its passage cut to neighbouring sentences of about `most_words` words in all.

    The sentences that the response was taken from always stay, wherever they stand; how much stays on
    either side is drawn. A record whose response is no part of its passage keeps the passage's start.
    """
    parts = sentences(record.knowledge)
    inside = [index for index, part in enumerate(parts) if part in record.response or record.response in part]
    first, last = (inside[0], inside[-1]) if inside else (0, 0)
    words = sum(len(part.split()) for part in parts[first : last + 1])
    while True:
        grown = []
        if first > 0:
            grown.append((first - 1, last))
        if last + 1 < len(parts):
            grown.append((first, last + 1))
        grown = [
            (low, high) for low, high in grown if words + len(parts[low if low < first else high].split()) <= most_words
        ]
        if not grown:
            return replace(record, knowledge=" ".join(parts[first : last + 1]))
        low, high = rng.choice(grown)
        words += len(parts[low if low < first else high].split())
        first, last = low, high


def _record(path: Path, number: int, line: str) -> Record:
    where = f"{path}, line {number}"
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: not JSON ({error})") from error
    context, knowledge, response = (field(row, name, str, where) for name in ("Context", "Knowledge", "Response"))
    for name, text in (("Context", context), ("Response", response)):
        if not text.strip():
            raise DataError(f"{where}: field {name!r} is empty")
    answer = None if row.get("Answer") is None else field(row, "Answer", str, where)
    turns = tuple(turn.strip() for turn in context.split(f" {TURN_SEPARATOR} ") if turn.strip())
    if not turns:
        raise DataError(f"{where}: field 'Context' holds no turn")
    return Record(turns, knowledge, response, answer)


if __name__ == "__main__":
    from training.prepare import main

    main()
