"""Runs a scheduler in a thread of its own, so that the engine goes on while TorchServe talks to the worker.

The thread loads the engine and is the only one that ever touches it or the scheduler. What others ask of it waits, as
orders, until the present step has ended; what it has to tell waits for `wait`. Nothing here polls.

Two rules keep the thread honest. A `wait` returns only when the engine has moved since it began: an engine that hangs
is then still seen from outside, by a call that does not return. And nobody who has left is worked for: the thread
rests when for `lease_seconds` nobody has submitted or waited, since TorchServe does not say that the last client is
gone.
"""

import atexit
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

from handler.contract.generation import GenerationParameters
from handler.scheduler import Finished, Scheduler

LEASE_SECONDS: Final = 0.5
_CLOSE_SECONDS: Final = 5.0
"""How long an end waits for the present step."""


class EngineThreadEndedError(RuntimeError):
    """The thread is gone, and no other may run its engine: the process must end."""


@dataclass(frozen=True, slots=True)
class News:
    """What came of the requests since the last `wait`."""

    finished: Sequence[Finished]
    tokens: Mapping[Hashable, Sequence[int]]
    """All tokens so far of those followed requests that have new ones and go on."""
    live: int
    """How many requests hold a slot."""


class EngineThread:
    """A scheduler and the thread that runs it. To be called by one other thread."""

    def __init__(
        self,
        load: Callable[[], Scheduler],
        *,
        lease_seconds: float = LEASE_SECONDS,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the thread and have it call `load`. Returns when that has returned, raises what it raised."""
        self._lease_seconds, self._timer = lease_seconds, timer
        # Everything below but the thread is read and written under this lock alone.
        lock = threading.Lock()
        self._asked, self._told = threading.Condition(lock), threading.Condition(lock)
        self._orders: deque[Callable[[Scheduler], None]] = deque()
        self._cancelled: set[Hashable] = set()
        """Requests whose cancelling is still an order."""
        self._resetting = False
        """Whether a reset is still an order."""
        self._followed: dict[Hashable, int] = {}
        """How many tokens of each have been told."""
        self._finished: list[Finished] = []
        self._tokens: dict[Hashable, Sequence[int]] = {}
        self._live = 0
        self._failure: Exception | None = None
        self._parts_due = self._due = math.inf
        """From when, by `timer`, new tokens and the end of any step end the present wait."""
        self._moved = False
        """Whether they have."""
        self._lease_end = -math.inf
        self._closing = self._ended = False
        loaded: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(load, loaded), name="engine", daemon=True)
        self._thread.start()
        loaded.result()
        atexit.register(self.close)

    def submit(
        self,
        key: Hashable,
        prompt_ids: Sequence[int],
        parameters: GenerationParameters,
        *,
        submitted_at: float,
        deadline: float | None = None,
        followed: bool = False,
    ) -> None:
        """Queue a request, as `Scheduler.submit`. Of one that is `followed` there is news token by token."""

        def order(scheduler: Scheduler) -> None:
            scheduler.submit(key, prompt_ids, parameters, submitted_at=submitted_at, deadline=deadline)

        with self._asked:
            if followed:
                self._followed[key] = 0
            self._orders.append(order)
            self._lease_end = self._timer() + self._lease_seconds
            self._asked.notify()

    def cancel(self, key: Hashable) -> None:
        """Forget the request `key`: no news of it follows, whatever the engine is doing just now."""
        with self._asked:
            self._followed.pop(key, None)
            self._tokens.pop(key, None)
            self._finished = [finished for finished in self._finished if finished.key != key]
            self._cancelled.add(key)
            self._orders.append(lambda scheduler: scheduler.cancel(key))
            self._asked.notify()

    def reset(self) -> None:
        """Forget every request and any failure: no news of them follows."""
        with self._asked:
            self._forget()
            self._failure = None
            self._resetting = True
            self._orders.append(Scheduler.reset)
            self._asked.notify()

    def wait(self, *, due: float = math.inf, parts_due: float = math.inf) -> News:
        """Wait for news: a finished request, new tokens at `parts_due` or later, the end of a step at `due` or later.

        There must be a request whose end was not told. Raises what the engine raised, until `reset`: no request
        lives on then. Raises EngineThreadEndedError when there will never be news again.
        """
        with self._told:
            self._due, self._parts_due = due, parts_due
            self._moved = bool(self._tokens) and self._timer() >= parts_due
            self._lease_end = math.inf
            self._asked.notify()
            self._told.wait_for(lambda: self._finished or self._moved or self._failure or self._ended)
            self._due = self._parts_due = math.inf
            self._lease_end = self._timer() + self._lease_seconds
            if self._ended:
                raise EngineThreadEndedError("the engine's thread has ended") from self._failure
            if self._failure is not None:
                raise self._failure
            news = News(self._finished, self._tokens, self._live)
            self._finished, self._tokens = [], {}
            return news

    def close(self) -> None:
        """End the thread after its present step. It may be called again."""
        with self._asked:
            self._closing = True
            self._asked.notify()
        atexit.unregister(self.close)
        self._thread.join(_CLOSE_SECONDS)

    def _run(self, load: Callable[[], Scheduler], loaded: Future[None]) -> None:
        try:
            scheduler = load()
        except BaseException as error:
            loaded.set_exception(error)
            return
        loaded.set_result(None)
        try:
            while self._take_orders(scheduler):
                try:
                    finished = scheduler.step()
                except Exception as error:
                    scheduler.reset()
                    self._fail(error)
                else:
                    self._tell(scheduler, finished)
        finally:
            with self._told:
                self._ended = True
                self._told.notify()

    def _take_orders(self, scheduler: Scheduler) -> bool:
        """Carry out what was asked; return True when there is a step to do, False when the end has come."""
        with self._asked:
            while not self._closing:
                while self._orders:
                    self._orders.popleft()(scheduler)
                self._cancelled.clear()
                self._resetting = False
                if not scheduler.idle and self._timer() < self._lease_end:
                    return True
                self._asked.wait()
        return False

    def _tell(self, scheduler: Scheduler, finished: Sequence[Finished]) -> None:
        with self._told:
            self._live = scheduler.live
            if self._resetting:
                return
            for each in finished:
                if each.key not in self._cancelled:
                    self._finished.append(each)
                    self._followed.pop(each.key, None)
                    self._tokens.pop(each.key, None)
            for key, count in self._followed.items():
                if key not in self._cancelled and len(tokens := scheduler.tokens(key)) > count:
                    self._tokens[key] = tokens
                    self._followed[key] = len(tokens)
            now = self._timer()
            self._moved = self._moved or now >= self._due or (bool(self._tokens) and now >= self._parts_due)
            if self._moved or self._finished:
                self._told.notify()

    def _fail(self, error: Exception) -> None:
        with self._told:
            if self._resetting:
                return
            self._forget()
            self._failure = error
            self._told.notify()

    def _forget(self) -> None:
        self._orders.clear()
        self._cancelled.clear()
        self._followed.clear()
        self._finished, self._tokens = [], {}
