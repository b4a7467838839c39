"""How people come: each after the last answer (closed loop), or at random times whatever becomes of the others (open).

Latencies of the open loop count from the moment at which somebody wanted to come: a generator, or a service, that
falls behind hides nothing. Whose turn the generator comes to only after the phase's end is held back, and counted.
"""

import asyncio
import random
import time
from array import array
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from bench.load.actions import MIX, NEED_THE_MODEL, Outcome, Town, act
from bench.load.people import Person

DRAIN_SECONDS: Final = 90.0
"""How long after the last arrival everything must have ended; the gateway's own deadline is a minute."""

MOST_FINDINGS: Final = 50


@dataclass(slots=True)
class Tally:
    """What became of the requests of one phase."""

    seconds: float = 0.0
    held_back: int = 0
    """Arrivals that found everybody busy, the bound on clients, or that the generator was too late for."""
    endings: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By kind and ending."""
    latencies: defaultdict[tuple[str, str], "array[float]"] = field(default_factory=lambda: defaultdict(_floats))
    """Seconds, by kind and ending."""
    first_text: "array[float]" = field(default_factory=lambda: array("d"))
    lag: float = 0.0
    """The longest that the generator itself was late."""

    def add(self, kind: str, outcome: Outcome, seconds: float) -> None:
        """Count one request."""
        self.endings[kind, outcome.ending] += 1
        self.latencies[kind, outcome.ending].append(seconds)
        if outcome.first_text is not None:
            self.first_text.append(outcome.first_text)

    def count(self, ending: str) -> int:
        """Return how many ended like this."""
        return sum(number for (_, other), number in self.endings.items() if other == ending)

    def of_the_model(self, ending: str) -> list[float]:
        """Return the seconds of all that wanted the model and ended like this, sorted."""
        found = (
            values for (kind, other), values in self.latencies.items() if kind in NEED_THE_MODEL and other == ending
        )
        return sorted(value for values in found for value in values)


def _floats() -> "array[float]":
    return array("d")


class Crowd:
    """The people, and what they have seen by phase."""

    def __init__(self, town: Town, people: list[Person], seed: int, mix: Mapping[str, int] = MIX) -> None:
        self.town = town
        self._kinds, self._weights = list(mix), list(mix.values())
        self._people = people
        self._free = deque(people)
        self._rng = random.Random(seed)
        self._busy: set[asyncio.Task[bool]] = set()
        self.tallies: defaultdict[str, Tally] = defaultdict(Tally)
        self.findings: list[str] = []
        """Promises broken, the first MOST_FINDINGS."""
        self.broken = 0

    @property
    def busy(self) -> int:
        """How many are waiting for an answer."""
        return len(self._busy)

    async def closed(self, phase: str, clients: int, seconds: float) -> float:
        """Let `clients` do one thing after the other; return how many things a second they got done.

        All of them have an answer at the end, the last of which may come a little after `seconds`.
        """
        start = time.perf_counter()
        tally = self.tallies[phase]

        async def client() -> int:
            finished = 0
            while time.perf_counter() - start < seconds:
                person = self._free.popleft()
                finished += await self._one(phase, self._kind(), person, time.perf_counter())
            return finished

        finished = sum(await asyncio.gather(*(client() for _ in range(min(clients, len(self._people))))))
        taken = time.perf_counter() - start
        tally.seconds += taken
        return finished / taken

    async def open(self, phase: str, rate: float, seconds: float) -> None:
        """Let `rate` people a second come for `seconds`, at random (Poisson); do not wait for the last of them."""
        tally = self.tallies[phase]
        tally.seconds += seconds
        start = time.perf_counter()
        for due in self._moments(rate, seconds):
            await asyncio.sleep(max(0.0, start + due - time.perf_counter()))  # one that is late hears answers, too
            now = time.perf_counter() - start
            tally.lag = max(tally.lag, now - due)
            if not self._free or now > seconds:
                tally.held_back += 1
                continue
            task = asyncio.ensure_future(self._one(phase, self._kind(), self._free.popleft(), start + due))
            self._busy.add(task)
            task.add_done_callback(self._busy.discard)

    async def drain(self) -> None:
        """Wait until nobody waits any more. Who hangs is a finding."""
        if self._busy:
            _, hanging = await asyncio.wait(set(self._busy), timeout=DRAIN_SECONDS)
            for task in hanging:
                self._found(f"a request hung for more than {DRAIN_SECONDS:g} s")
                task.cancel()
            await asyncio.gather(*hanging, return_exceptions=True)

    def _moments(self, rate: float, seconds: float) -> Iterator[float]:
        moment = self._rng.expovariate(rate)
        while moment < seconds:
            yield moment
            moment += self._rng.expovariate(rate)

    def _kind(self) -> str:
        return self._rng.choices(self._kinds, self._weights)[0]

    async def _one(self, phase: str, kind: str, person: Person, since: float) -> bool:
        """Let a person do one thing; return whether it was done."""
        try:
            outcome = await act(kind, self.town, person)
        finally:
            self._free.append(person)
        self.tallies[phase].add(kind, outcome, time.perf_counter() - since)
        if outcome.ending == "broken":
            self._found(outcome.detail)
        return outcome.ending in ("done", "left")

    def _found(self, detail: str) -> None:
        self.broken += 1
        if len(self.findings) < MOST_FINDINGS:
            self.findings.append(detail)

    def found(self, detail: str) -> None:
        """Keep a promise that was seen broken elsewhere."""
        self._found(detail)
