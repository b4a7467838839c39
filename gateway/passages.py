"""Splitting long knowledge into passages: at paragraphs and sentence ends where there are any, by words otherwise."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

PASSAGE_CHARACTERS: Final = 250
"""How long a passage may be. Chosen by measurement: docs/retrieval.md."""

_ABBREVIATIONS: Final = frozenset(
    {"mr", "mrs", "ms", "dr", "prof", "st", "sr", "jr", "vs", "etc", "no", "nos", "vol", "fig", "figs", "pp", "ed"}
    | {"eds", "e.g", "i.e", "cf", "al", "approx", "dept", "est", "inc", "ltd", "co", "corp", "gen", "col", "rev", "hon"}
    | {"jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec", "u.s", "u.k"}
    | {"bzw", "z.b", "d.h", "usw", "nr", "ca"}
)

# A sentence ends at its mark, with what closes around it, before white space; in scripts without spaces at the mark.
_SENTENCE_END = re.compile(
    r"[.!?…]+[\"'”’»)\]]*(?=\s)|[。！？]+[」』”’）]*|\n\s*\n|\n(?=\s*(?:[-*•#]|\d+[.)])\s)"  # noqa: RUF001 - marks of other scripts
)
_WORD_BEFORE = re.compile(r"([\w.]+)$")


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a text: `text[start:end]`."""

    start: int
    end: int


def split(text: str, longest: int = PASSAGE_CHARACTERS) -> list[Span]:
    """Return the passages of `text` in order, of at most `longest` characters each.

    They hold every character that is not white space exactly once, and neither begin nor end with white space.
    """
    passages: list[Span] = []
    start = end = 0
    for piece in _pieces(text, longest):
        paragraph = "\n\n" in text[end - 2 : piece.start + 2] and end - start >= longest // 2
        if end > start and (piece.end - start > longest or paragraph):
            passages.append(Span(start, end))
            start = piece.start
        elif end == start:
            start = piece.start
        end = piece.end
    if end > start:
        passages.append(Span(start, end))
    return passages


def _pieces(text: str, longest: int) -> Iterator[Span]:
    """Yield the sentences of `text` without the white space around them, cut where one is longer than `longest`."""
    start = 0
    for end in [*_ends(text), len(text)]:
        piece = _trimmed(text, start, end)
        start = end
        while piece.end - piece.start > longest:
            cut = _cut(text, piece.start, piece.start + longest)
            yield _trimmed(text, piece.start, cut)
            piece = _trimmed(text, cut, piece.end)
        if piece.end > piece.start:
            yield piece


def _ends(text: str) -> Iterator[int]:
    for match in _SENTENCE_END.finditer(text):
        if match.group().startswith(".") and len(match.group()) == 1:
            word = _WORD_BEFORE.search(text, max(0, match.start() - 24), match.start())
            if word and (word.group().lower() in _ABBREVIATIONS or (len(word.group()) == 1 and word.group().isupper())):
                continue
        yield match.end()


def _cut(text: str, start: int, end: int) -> int:
    """Return where to cut `text[start:end]`: after its last white space, or at `end` when there is none."""
    for place in range(end, start + (end - start) // 2, -1):
        if text[place - 1].isspace():
            return place
    return end


def _trimmed(text: str, start: int, end: int) -> Span:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return Span(start, end)
