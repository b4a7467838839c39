"""Draws from grounded records: a question with its passage, a dialogue on one passage, a passage without the answer."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final

from handler.contract.prompt import neutralise
from training.data import Pair, Record, to_pair, trim_knowledge

REFUSALS: Final = (
    "I don't know that from what I was told.",
    "I don't know. What I was told does not say.",
    "I'm sorry, I don't know that.",
    "I was not told anything about that.",
    "Sorry, what I know does not answer that.",
    "I can't tell from what I was told.",
)
"""What a model is trained to say when the passage does not hold the answer."""

_NEARBY: Final = 40
_TRIES: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """How records are drawn. `dialogue` and `unanswerable` are shares of the draws, 0 to 1."""

    words: int
    """Most words of a passage; how many a draw has is drawn too. 0 leaves the passage out."""
    turns: int = 5
    """The last turns kept of a record's own dialogue."""
    instructions: Sequence[str | None] = (None,)
    """One is drawn for each record with knowledge; None is the contract's default."""
    dialogue: float = 0.0
    """Put up to two other questions on the same passage, answered, before the one to answer."""
    among: int = 0
    """Put up to so many other records' passages round the record's own, whole, as a list of facts or questions has
    them; then a passage is not cut, and `words` bounds them all."""
    nearby: float = 0.0
    """The share of those other passages that stand near the record in its file, on a like subject."""
    typed: float = 0.0
    """The share of draws whose last turn is as people type it: small letters alone, and mostly no mark at its end."""
    unanswerable: float = 0.0
    """Give the passage of another record instead, and one of REFUSALS as the response."""


class RecordSource:
    """Draws pairs from records by a `Draw`. Records on one passage that stand together can be joined."""

    def __init__(self, records: Sequence[Record], draw: Draw) -> None:
        """Keep `records`, at least one."""
        self._records, self._draw = records, draw
        self._together: list[range] = []
        for _, group in groupby(records, key=lambda record: record.knowledge):
            count = sum(1 for _ in group)
            start = len(self._together)
            self._together.extend([range(start, start + count)] * count)

    def __call__(self, rng: random.Random) -> Pair:
        """Draw one pair."""
        draw = self._draw
        number = rng.randrange(len(self._records))
        record = self._records[number]
        record = replace(record, turns=record.turns[-draw.turns :])
        if draw.typed and rng.random() < draw.typed:
            record = replace(record, turns=(*record.turns[:-1], _typed(record.turns[-1], rng)))
        if not record.knowledge or not draw.words:
            return to_pair(replace(record, knowledge=""), None)
        kind = rng.random()
        if kind < draw.unanswerable and (other := self._passage_without(number, rng)):
            record = replace(record, knowledge=other, response=rng.choice(REFUSALS), answer=None)
            return replace(self._rendered(number, record, rng), grounds="")
        if kind < draw.unanswerable + draw.dialogue:
            record = replace(record, turns=(*self._earlier(number, rng), *record.turns))
        return self._rendered(number, record, rng)

    def _rendered(self, number: int, record: Record, rng: random.Random) -> Pair:
        draw = self._draw
        instruction = rng.choice(draw.instructions)
        if draw.among:
            pair = to_pair(replace(record, knowledge=self._among_others(number, record, rng)), instruction)
            # Of a passage that is copied from, the sentence is found by what is copied.
            return pair if record.response in record.knowledge else replace(pair, grounds=neutralise(record.knowledge))
        return to_pair(trim_knowledge(record, rng.randint(min(20, draw.words), draw.words), rng), instruction)

    def _among_others(self, number: int, record: Record, rng: random.Random) -> str:
        passages = [record.knowledge]
        words = len(record.knowledge.split())
        for other in self._others(number, rng.randint(0, self._draw.among), rng):
            words += len(other.knowledge.split())
            if words <= self._draw.words and other.knowledge not in ("", self._records[number].knowledge, *passages):
                passages.append(other.knowledge)
        rng.shuffle(passages)
        return " ".join(passages)

    def _others(self, number: int, most: int, rng: random.Random) -> list[Record]:
        if not self._draw.nearby:
            return rng.sample(self._records, min(len(self._records), most))
        everywhere = range(len(self._records))
        places = [
            rng.choice(_near(number, everywhere) if rng.random() < self._draw.nearby else everywhere)
            for _ in range(most)
        ]
        return [self._records[place] for place in places]

    def _earlier(self, number: int, rng: random.Random) -> tuple[str, ...]:
        others = [other for other in self._together[number] if other != number]
        chosen = rng.sample(others, min(len(others), rng.randint(1, 2)))
        return tuple(turn for other in chosen for turn in (*self._records[other].turns, self._records[other].response))

    def _passage_without(self, number: int, rng: random.Random) -> str | None:
        """Return another record's passage without this one's answer: half the time a near one, on a like subject."""
        record = self._records[number]
        answer = (record.answer or record.response).lower()
        for _ in range(_TRIES):
            everywhere = range(len(self._records))
            other = self._records[rng.choice(_near(number, everywhere) if rng.random() < 0.5 else everywhere)].knowledge
            if other and other != record.knowledge and answer not in other.lower():
                return other
        return None


def _near(number: int, everywhere: range) -> range:
    return everywhere[max(0, number - _NEARBY) : number + _NEARBY]


def _typed(turn: str, rng: random.Random) -> str:
    small = turn.lower()
    return small.rstrip(" ?.!") or small if rng.random() < 0.7 else small
