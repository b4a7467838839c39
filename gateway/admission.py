"""Who is let to the model, who waits, and who is refused at once because it would wait too long.

Bots take turns, so that one with many users does not keep the others out.
"""

import asyncio
import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

from gateway.errors import BotQueueFull, ModelTimeout, QueueFull

LARGEST_SHARE: Final = 0.5
"""How much of the queue one bot may fill: the rest stays free for others."""


OVERDUE: Final = 2.0
"""Nobody waits longer than this many times the wait that a newcomer may expect: the estimate errs, the model halts."""

LONGEST_RETRY_SECONDS: Final = 60


class Pace:
    """How long it takes until the next place comes free, while all are taken: the mean over the last ones."""

    REMEMBERED: Final = 32
    """Answers come in bursts, up to a batch in one moment: a few of them must be averaged over."""

    LEAST: Final = 8
    """Fewer say nothing yet: the first answers of a model that has just begun come slowly, and some at once."""

    def __init__(self, timer: Callable[[], float]) -> None:
        self._timer = timer
        self._seen = 0
        self._mean = 0.0
        self._last: float | None = None

    def freed(self, *, handed_on: bool) -> None:
        """Take note of a place that came free. Unless it was handed on, the next interval holds idle time."""
        now = self._timer()
        if self._last is not None:
            self._seen = min(self._seen + 1, self.REMEMBERED)
            self._mean += (now - self._last - self._mean) / self._seen
        self._last = now if handed_on else None

    def seconds(self, places: int) -> float:
        """Return after how many seconds as many places will have come free; 0 while too little is known."""
        return self._mean * places if self._seen >= self.LEAST else 0.0


class Admission:
    """At most `max_in_flight` requests at the model; at most `max_waiting` wait here, beyond that they are refused.

    So are those that would wait longer than `max_seconds`, at the pace at which places came free of late. The model's
    server has a queue of its own, in which nobody takes turns, so it is not to be filled.
    """

    def __init__(
        self,
        max_in_flight: int,
        max_waiting: int,
        max_seconds: float = math.inf,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_in_flight, self._max_waiting, self._max_seconds = max_in_flight, max_waiting, max_seconds
        self._bot_share = int(max_waiting * LARGEST_SHARE) or max_waiting
        self._clock = clock
        self._pace = Pace(timer)
        self._turns: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self.in_flight = 0
        self.waiting = 0

    def check(self, bot_id: str) -> None:
        """Raise QueueFull or BotQueueFull when a request of this bot would be refused now.

        Ask before anything is done for a request: refusing must cost little when there is much to refuse.
        """
        if self.in_flight < self._max_in_flight:  # nobody waits then: who leaves hands the place on
            return
        expected = self._pace.seconds(self._ahead(bot_id) + 1)
        retry = min(LONGEST_RETRY_SECONDS, max(1, math.ceil(expected)))
        if self.waiting >= self._max_waiting:
            raise QueueFull(f"{self.waiting} requests wait for the model already", retry_seconds=retry)
        # The first that waits is let in whatever is expected: from it the pace is learnt, also a better one.
        if self.waiting and expected > self._max_seconds:
            raise QueueFull(f"an answer would begin in about {expected:.0f} s, too late", retry_seconds=retry)
        if (own := len(self._turns.get(bot_id, ()))) >= self._bot_share:
            raise BotQueueFull(
                f"{own} requests to the bot {bot_id} wait already, as many as one bot may have", retry_seconds=retry
            )

    def place(self, bot_id: str, deadline: float) -> "Place":
        """Return a place at the model, held for a block; it is waited for until `deadline`, in seconds since the epoch.

        Raises QueueFull or BotQueueFull at once, QueueFull after OVERDUE times the longest wait, ModelTimeout at the
        deadline. Who stops waiting leaves the queue.
        """
        return Place(self, bot_id, deadline)

    async def enter(self, bot_id: str, deadline: float) -> None:
        """Take a place, as `place` says; whoever has it must `leave`."""
        self.check(bot_id)
        if self.in_flight < self._max_in_flight:
            self.in_flight += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._turns.setdefault(bot_id, deque()).append(turn)
        self.waiting += 1
        until_deadline, overdue = max(0.0, deadline - self._clock()), OVERDUE * self._max_seconds
        try:
            async with asyncio.timeout(min(until_deadline, overdue)):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():  # the place came in the same moment
                self.leave()
            else:
                self._forget(bot_id, turn)
            if isinstance(error, TimeoutError) and overdue < until_deadline:
                raise QueueFull(f"no place at the model came free within {overdue:g} s") from error
            if isinstance(error, TimeoutError):
                raise ModelTimeout("the deadline passed before the model had a free place") from error
            raise

    def _ahead(self, bot_id: str) -> int:
        """Return how many of those that wait come before a newcomer of this bot, if nobody else comes."""
        own = len(self._turns.get(bot_id, ()))
        ahead, rounds = 0, own + 1
        for other, line in self._turns.items():
            if other == bot_id:
                ahead, rounds = ahead + own, own  # those behind it in the circle have had one turn fewer by then
            else:
                ahead += min(len(line), rounds)
        return ahead

    def leave(self) -> None:
        """Hand the place on, or free it when nobody waits."""
        turn = self._next()
        self._pace.freed(handed_on=turn is not None)
        if turn is None:
            self.in_flight -= 1
        else:
            turn.set_result(None)

    def _next(self) -> "asyncio.Future[None] | None":
        """Return the first of the bot whose turn it is; nobody of it comes again before the others."""
        while self._turns:
            bot_id, line = next(iter(self._turns.items()))
            turn = line.popleft()
            self.waiting -= 1
            if line:
                self._turns.move_to_end(bot_id)
            else:
                del self._turns[bot_id]
            if not turn.done():
                return turn
            # Whoever waited was cancelled a moment ago, and has not come to leave the line yet.
        return None

    def _forget(self, bot_id: str, turn: "asyncio.Future[None]") -> None:
        line = self._turns.get(bot_id, deque())
        if turn in line:
            line.remove(turn)
            self.waiting -= 1
        if not line:
            self._turns.pop(bot_id, None)


class Place:
    """A place at the model, held while a block runs."""

    def __init__(self, admission: Admission, bot_id: str, deadline: float) -> None:
        self._admission, self._bot_id, self._deadline = admission, bot_id, deadline

    async def __aenter__(self) -> None:
        """Take it."""
        await self._admission.enter(self._bot_id, self._deadline)

    async def __aexit__(self, *_: object) -> None:
        """Hand it on, or free it when nobody waits."""
        self._admission.leave()
