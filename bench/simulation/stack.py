"""One stack, event by event: a gateway of one core, a queue with a bound, a worker that steps over its slots, a writer.

It follows what the code does: `gateway/admission.py` lets in, `handler/scheduler.py` admits up to 512 prompt tokens
before each step, those that hold up many in groups, and gives every live request a token a step. Left out: drafts (a
lone request is really faster), the turns of bots (they change who waits, not how many), failures.
"""

import random
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, Final

import simpy

from bench.simulation.service import Service
from handler.scheduler import STALL_TOKENS

PREFILL_TOKENS: Final = 512
"""As much is read before each step; one prompt goes alone if it is longer."""

Process = Generator[simpy.Event, Any, Any]


@dataclass(frozen=True, slots=True)
class Work:
    """What one request takes."""

    prompt_tokens: int
    new_tokens: int
    session: bool = False


@dataclass(slots=True)
class _Live:
    work: Work
    done: simpy.Event
    left: int
    arrived: float


@dataclass(slots=True)
class Seen:
    """What came of the requests of a simulation."""

    latencies: list[float] = field(default_factory=list)
    refused: int = 0
    busy: dict[str, float] = field(default_factory=lambda: {"model": 0.0, "gateway": 0.0, "database": 0.0})
    """Seconds in which each was at work."""
    seconds: float = 0.0
    """Until the last was answered."""


class SimulatedStack:
    """A gateway before one worker."""

    def __init__(
        self,
        env: simpy.Environment,
        service: Service,
        *,
        max_in_flight: int | None = None,
        max_queue_seconds: float | None = None,
        gateways: int = 1,
    ) -> None:
        """`max_in_flight` is the slots unless given; without `max_queue_seconds` nobody is refused."""
        self.env, self._service = env, service
        self.seen = Seen()
        self._gateway = simpy.Resource(env, capacity=gateways)
        self._database = simpy.Resource(env)
        self._places = simpy.Resource(env, capacity=max_in_flight or service.slots)
        self._max_queue_seconds = max_queue_seconds
        self._mean_interval, self._intervals = 0.0, 0
        self._last: float | None = None
        self._waiting: deque[_Live] = deque()
        self._live: list[_Live] = []
        self._arrived = env.event()
        env.process(self._worker())

    def request(self, work: Work) -> Process:
        """Go through the whole stack; note the latency, or the refusal."""
        start = self.env.now
        if self._too_late():
            self.seen.refused += 1
            return
        yield from self._use("gateway", self._gateway, self._service.gateway)
        with self._places.request() as place:
            yield place
            yield self.env.timeout(self._service.around)
            entry = _Live(work, self.env.event(), work.new_tokens, self.env.now)
            self._waiting.append(entry)
            if not self._arrived.triggered:
                self._arrived.succeed()
            yield entry.done
        self._freed()
        if work.session:
            yield from self._use("gateway", self._gateway, self._service.session)
            yield from self._use("database", self._database, self._service.write)
        self.seen.latencies.append(self.env.now - start)

    def _use(self, name: str, resource: simpy.Resource, seconds: float) -> Process:
        with resource.request() as turn:
            yield turn
            yield self.env.timeout(seconds)
            self.seen.busy[name] += seconds

    def _too_late(self) -> bool:
        queued = len(self._places.queue)
        return (
            self._max_queue_seconds is not None
            and queued > 0
            and (queued + 1) * self._mean_interval > self._max_queue_seconds
        )

    def _freed(self) -> None:
        """Learn the pace as the gateway does: intervals between places that are handed on."""
        if self._last is not None:
            self._intervals = min(32, self._intervals + 1)
            self._mean_interval += (self.env.now - self._last - self._mean_interval) / self._intervals
        self._last = self.env.now if self._places.queue else None

    def _worker(self) -> Process:
        group_open = False
        while True:
            if not self._live and not self._waiting:
                self._arrived = self.env.event()
                yield self._arrived
            seconds, budget = 0.0, PREFILL_TOKENS
            while self._waiting and len(self._live) < self._service.slots:
                tokens = self._waiting[0].work.prompt_tokens
                waited = self.env.now - self._waiting[0].arrived
                group_open = group_open or (
                    tokens * len(self._live) <= STALL_TOKENS or waited >= self._service.patience
                )
                if not group_open or (tokens > budget and budget < PREFILL_TOKENS):
                    break
                budget -= tokens
                seconds += self._service.encode_seconds(tokens)
                self._live.append(self._waiting.popleft())
            else:
                group_open = False
            seconds += self._service.step_seconds(len(self._live))
            self.seen.busy["model"] += seconds
            yield self.env.timeout(seconds)
            for each in self._live:
                each.left -= 1
                if each.left <= 0:
                    each.done.succeed()
            self._live = [each for each in self._live if each.left > 0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """How long prompts and answers are: a triangle for the one, an exponential tail for the other. An assumption."""

    prompt: tuple[int, int, int] = (60, 350, 512)
    """Shortest, most frequent, longest."""
    shortest_answer: int = 8
    mean_answer: int = 30
    longest_answer: int = 128
    sessions: float = 0.5
    """The share that belongs to a session."""

    def draw(self, rng: random.Random) -> Work:
        """Return what one request takes."""
        low, mode, high = self.prompt
        more = rng.expovariate(1 / max(1e-9, self.mean_answer - self.shortest_answer))
        return Work(
            prompt_tokens=round(rng.triangular(low, high, mode)),
            new_tokens=min(self.longest_answer, self.shortest_answer + round(more)),
            session=rng.random() < self.sessions,
        )


def open_loop(
    service: Service, rate: float, seconds: float, lengths: Lengths, *, seed: int = 0, **options: Any
) -> Seen:
    """Return what becomes of requests that come at random, `rate` a second, for `seconds`; all are answered."""
    env, rng = simpy.Environment(), random.Random(seed)
    stack = SimulatedStack(env, service, **options)

    def arrivals() -> Process:
        while env.now < seconds:
            yield env.timeout(rng.expovariate(rate))
            env.process(stack.request(lengths.draw(rng)))

    env.process(arrivals())
    env.run()
    stack.seen.seconds = env.now
    return stack.seen


def closed_loop(service: Service, clients: int, rounds: int, work: Work) -> tuple[Seen, float]:
    """Return what clients see that ask `rounds` times each without a pause, and how many seconds it took."""
    env = simpy.Environment()
    stack = SimulatedStack(env, service)

    def client() -> Process:
        for _ in range(rounds):
            yield from stack.request(work)

    everybody = env.all_of([env.process(client()) for _ in range(clients)])
    env.run(until=everybody)
    return stack.seen, float(env.now)
