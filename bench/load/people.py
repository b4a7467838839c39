"""People with a bot each: what theirs must answer, what it must never, and what their sessions must hold.

A person does one thing at a time, so it is known at every moment what the bot may know: what was acknowledged last,
and whatever was sent since without an acknowledgement.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent.parent
QUESTION: Final = "What is the password of the club?"


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIRST: Final = _words("amber silver copper marble velvet cotton yellow winter summer river forest island harbor")
SECOND: Final = _words("falcon garden castle meadow lantern thunder window orchard pepper saddle ribbon bishop")
THIRD: Final = _words("candle barrel dragon feather hammer jacket kettle ladder mirror needle oyster pillow")
"""Words that the embedded model copies well, unless one of them comes twice. A password is one of each: the first two
say whose it is, the third which version."""

_OWNERS: Final = frozenset(f"{first} {second}" for first in FIRST for second in SECOND)

MOST_PEOPLE: Final = len(FIRST) * len(SECOND)
LONGEST_SESSION: Final = 8

_PASSWORD: Final = re.compile(r"password of the club is (\w+ \w+) (\w+)")


def _paragraphs() -> list[str]:
    return (ROOT / "examples" / "cricket.txt").read_text(encoding="utf-8").strip().split("\n\n")


class Doubt(Exception):  # noqa: N818 - what it is, not yet an error
    """An answer with nobody's password: a model's own mistake, or somebody else's answer. To be asked again, alone."""


class BrokenPromise(AssertionError):  # noqa: N818 - says what happened
    """The service did what it promises never to do; the message says what."""


@dataclass(slots=True)
class Session:
    """A conversation as its person remembers it."""

    session_id: str
    acknowledged: list[tuple[str, str]] = field(default_factory=list)
    """Message and answer, in the order in which they were said."""
    unknown: set[str] = field(default_factory=set)
    """Messages whose answer never came: the session may hold them, or not."""
    said: int = 0

    def check(self, turns: Sequence[tuple[str, str]]) -> None:
        """Raise BrokenPromise unless `turns` are all that was acknowledged, in order, and nothing never said."""
        missing, possible = list(self.acknowledged), set(self.unknown)
        for turn in turns:
            if missing and turn == missing[0]:
                missing.pop(0)
            elif turn[0] in possible:
                possible.remove(turn[0])
            else:
                raise BrokenPromise(f"a session holds a turn that is not of it, or not in its place: {turn}")
        if missing:
            raise BrokenPromise(f"a session lost {len(missing)} acknowledged turns, the first {missing[0]}")


@dataclass(slots=True)
class Person:
    """Somebody with a bot of their own."""

    number: int
    rng: random.Random
    version: int = 0
    """Of the bot's knowledge, the newest that was sent."""
    possible: set[int] = field(default_factory=lambda: {0})
    """The versions that the bot may have: one, unless a change was not acknowledged."""
    session: Session | None = None

    @property
    def bot_id(self) -> str:
        """The name of the bot."""
        return f"soak-{self.number}"

    @property
    def own_words(self) -> str:
        """The two words that begin all passwords of this person and nobody else's."""
        first, second = divmod(self.number, len(SECOND))
        return f"{FIRST[first]} {SECOND[second]}"

    def fact(self, version: int) -> str:
        """Return the sentence that the bot must answer with when its knowledge is of this version."""
        return f"The password of the club is {self.own_words} {THIRD[version % len(THIRD)]}."

    def knowledge(self, version: int) -> str:
        """Return a passage with the sentence somewhere in it: prompts of some 50 to 450 tokens."""
        rng = random.Random(self.number * 1_000_003 + version)
        paragraphs = _paragraphs()
        chosen = [self.fact(version), *rng.sample(paragraphs, rng.choice((0, 1, 1, 2, 3)))]
        rng.shuffle(chosen)
        return "\n\n".join(chosen)

    def change(self) -> int:
        """Return the version to send next; until `changed` it is unknown which one the bot has."""
        self.version += 1
        self.possible.add(self.version)
        return self.version

    def changed(self, version: int) -> None:
        """Remember that this version was acknowledged. A session's turns would still tell the one before: it ends."""
        self.possible = {version}
        self.session = None

    def check_answer(self, text: str) -> None:
        """Raise BrokenPromise unless the answer is of this person's bot, as it is now; Doubt when it does not say."""
        found = _PASSWORD.search(text)
        if found is None or found[1] not in _OWNERS or found[2] not in THIRD:  # none, or one copied with a fault
            raise Doubt(text)
        if found[1] != self.own_words:
            raise BrokenPromise(f"{self.bot_id} answered with somebody else's password: {text!r}")
        if found[2] not in {THIRD[version % len(THIRD)] for version in self.possible}:
            raise BrokenPromise(f"{self.bot_id} answered with a password that was changed before: {text!r}")

    def check_knowledge(self, text: str) -> None:
        """Raise BrokenPromise unless `text` is what the bot may know."""
        if text not in {self.knowledge(version) for version in self.possible}:
            raise BrokenPromise(f"{self.bot_id} does not know what was acknowledged: {text[:200]!r}")


def people(count: int, seed: int) -> list[Person]:
    """Return `count` people, each with random numbers of their own."""
    if not 1 <= count <= MOST_PEOPLE:
        raise ValueError(f"there are words for 1 to {MOST_PEOPLE} people, not {count}")
    return [Person(number, random.Random(f"{seed}-{number}")) for number in range(count)]
