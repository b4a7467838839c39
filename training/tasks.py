"""Exercises made from plain text: span corruption, and finding and copying a sentence of a passage.

A small model learns to copy long before it learns to understand, and only where nearly every target
token is a copying decision. So the copying exercises use real text, laid out by the one prompt: a cue in
the context, a passage as the knowledge, one of its sentences as the target.
"""

import random
from array import array
from collections.abc import Iterable, Sequence
from typing import Final, overload

from handler.contract.prompt import neutralise, render
from training.data import Pair
from training.text import sentences
from training.tokenizer import SENTINELS

_FRAMES: Final = (
    "{cue}",
    "{cue}?",
    "What is {cue}?",
    "What about {cue}?",
    "What {cue}?",
    "Who {cue}?",
    "When {cue}?",
    "Where {cue}?",
    "Which {cue}?",
    "How many {cue}?",
    "How {cue}?",
    "Why {cue}?",
    "Tell me about {cue}.",
    "Do you know {cue}?",
    "I want to know about {cue}.",
)
_INSTRUCTIONS: Final = ("qa", "qa", "qa", "grounded")
_TRIES: Final = 50


class Paragraphs(Sequence[str]):
    """Paragraphs in one piece of memory, a third of what as many strings would take."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._bytes = bytearray()
        self._ends = array("Q")
        for text in texts:
            self._bytes += text.encode()
            self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, number: int) -> str: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[str]: ...
    def __getitem__(self, number: int | slice) -> str | Sequence[str]:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        if not 0 <= number < len(self):
            raise IndexError(number)
        return self._bytes[self._ends[number - 1] if number else 0 : self._ends[number]].decode()


class PassageSource:
    """Draws passages of neighbouring sentences from documents."""

    def __init__(self, documents: Iterable[str], *, least_words: int = 4, most_words: int = 45) -> None:
        """Keep `documents`; a sentence to be asked for has `least_words` to `most_words` words."""
        self.paragraphs = Paragraphs(
            line for document in documents for line in document.split("\n") if len(line.split()) >= least_words
        )
        if not self.paragraphs:
            raise ValueError("no paragraph of the text is long enough to make an exercise of")
        self._least, self._most = least_words, most_words

    def paragraph(self, rng: random.Random) -> str:
        """Return one paragraph."""
        return rng.choice(self.paragraphs)

    def passage(self, rng: random.Random, most_sentences: int, most_words: int) -> tuple[list[str], int]:
        """Return up to `most_sentences` sentences of one paragraph and the index of the one to ask for.

        At most `most_words` words in all, save where the asked sentence alone is longer.
        """
        for _ in range(_TRIES):
            parts = sentences(self.paragraph(rng))
            asked = [i for i, part in enumerate(parts) if self._least <= len(part.split()) <= self._most]
            if asked:
                break
        else:
            raise ValueError("the text holds hardly any sentence of a usable length")
        chosen = rng.choice(asked)
        first = max(0, chosen - rng.randrange(most_sentences))
        last = min(len(parts), first + most_sentences)
        words = [len(part.split()) for part in parts]
        while sum(words[first:last]) > most_words and last - first > 1:
            if chosen - first > last - 1 - chosen:
                first += 1
            else:
                last -= 1
        return parts[first:last], chosen - first


def sentence_from_opening(source: PassageSource, rng: random.Random, most_sentences: int, most_words: int) -> Pair:
    """Ask for the sentence that begins with the cue."""
    passage, asked = source.passage(rng, most_sentences, most_words)
    words = passage[asked].split()
    return _ask(" ".join(words[: rng.randint(1, max(1, min(5, len(words) // 2)))]), passage, asked, rng)


def sentence_from_words(source: PassageSource, rng: random.Random, most_sentences: int, most_words: int) -> Pair:
    """Ask for the sentence that holds the cue's words, framed as a question or a request now and then."""
    passage, asked = source.passage(rng, most_sentences, most_words)
    words = [word.strip("\"'()[],.;:!?") for word in passage[asked].split()]
    telling = [index for index, word in enumerate(words) if len(word) > 3] or list(range(len(words)))
    kept = rng.sample(telling, min(len(telling), rng.randint(2, 6)))
    if rng.random() < 0.8:
        kept.sort()
    cue = " ".join(words[index] for index in kept)
    if rng.random() < 0.2:
        cue = cue.lower()
    return _ask(rng.choice(_FRAMES).format(cue=cue), passage, asked, rng)


def span_corruption(source: PassageSource, rng: random.Random, most_words: int, *, share: float = 0.15) -> Pair:
    """Return a text with `share` of its words taken out in spans of 3 on average, and the spans as the target.

    T5's objective (Raffel et al. 2020, section 3.1.4), by whole words.
    """
    words = neutralise(source.paragraph(rng)).split()
    if len(words) > most_words:
        first = rng.randrange(len(words) - most_words)
        words = words[first : first + most_words]
    return corrupt(words, rng, share)


def corrupt(words: Sequence[str], rng: random.Random, share: float) -> Pair:
    """Replace `share` of `words`, one word at least, by sentinels; the target holds each sentinel and its span."""
    masked: set[int] = set()
    wanted = max(1, round(len(words) * share))
    while len(masked) < wanted:
        start = rng.randrange(len(words))
        masked.update(range(start, min(len(words), start + rng.randint(1, 5), start + wanted - len(masked))))
    kept: list[str] = []
    target: list[str] = []
    spans = 0
    for index, word in enumerate(words):
        if index in masked and spans <= len(SENTINELS):
            if index - 1 not in masked or index == 0:
                if spans == len(SENTINELS):
                    kept.append(word)
                    continue
                kept.append(SENTINELS[spans])
                target.append(SENTINELS[spans])
                spans += 1
            target.append(word)
        else:
            kept.append(word)
    return Pair(" ".join(kept), " ".join(target))


def _ask(cue: str, passage: Sequence[str], asked: int, rng: random.Random) -> Pair:
    return Pair(render([cue], " ".join(passage), rng.choice(_INSTRUCTIONS)), neutralise(passage[asked]))
