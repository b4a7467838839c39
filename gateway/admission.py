"""Who is let to the model, and who waits. Bots take turns, so that one with many users does not keep the others out."""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from gateway.errors import BotQueueFull, ModelTimeout, QueueFull

LARGEST_SHARE: Final = 0.5
"""How much of the queue one bot may fill: the rest stays free for others."""


class Admission:
    """At most `max_in_flight` requests at the model; at most `max_waiting` wait here, beyond that they are refused.

    The model's server has a queue of its own, in which nobody takes turns, so it is not to be filled.
    """

    def __init__(self, max_in_flight: int, max_waiting: int, clock: Callable[[], float] = time.time) -> None:
        self._max_in_flight, self._max_waiting = max_in_flight, max_waiting
        self._bot_share = int(max_waiting * LARGEST_SHARE) or max_waiting
        self._clock = clock
        self._turns: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self.in_flight = 0
        self.waiting = 0

    @asynccontextmanager
    async def place(self, bot_id: str, deadline: float) -> AsyncIterator[None]:
        """Hold a place at the model; wait for it until `deadline`, in seconds since the epoch.

        Raises QueueFull or BotQueueFull at once, ModelTimeout at the deadline. Who stops waiting leaves the queue.
        """
        await self._enter(bot_id, deadline)
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, bot_id: str, deadline: float) -> None:
        if self.in_flight < self._max_in_flight:  # nobody waits then: who leaves hands the place on
            self.in_flight += 1
            return
        if self.waiting >= self._max_waiting:
            raise QueueFull(f"{self.waiting} requests wait for the model already")
        line = self._turns.setdefault(bot_id, deque())
        if len(line) >= self._bot_share:
            raise BotQueueFull(f"{len(line)} requests to the bot {bot_id} wait already, as many as one bot may have")
        turn = asyncio.get_running_loop().create_future()
        line.append(turn)
        self.waiting += 1
        try:
            async with asyncio.timeout(max(0.0, deadline - self._clock())):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():  # the place came in the same moment
                self._leave()
            else:
                self._forget(bot_id, turn)
            if isinstance(error, TimeoutError):
                raise ModelTimeout("the deadline passed before the model had a free place") from error
            raise

    def _leave(self) -> None:
        """Hand the place to the first of the bot whose turn it is; nobody of it comes again before the others."""
        if not self._turns:
            self.in_flight -= 1
            return
        bot_id, line = next(iter(self._turns.items()))
        turn = line.popleft()
        self.waiting -= 1
        if line:
            self._turns.move_to_end(bot_id)
        else:
            del self._turns[bot_id]
        turn.set_result(None)

    def _forget(self, bot_id: str, turn: "asyncio.Future[None]") -> None:
        line = self._turns[bot_id]
        line.remove(turn)
        self.waiting -= 1
        if not line:
            del self._turns[bot_id]
