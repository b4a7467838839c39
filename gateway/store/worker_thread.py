"""A thread that does one thing after the other for an event loop.

What `ThreadPoolExecutor` and `run_in_executor` do beside that, two futures that follow each other, a count of idle
threads, wakes both threads once more for each call, and each time one waits for the other to let Python go.
"""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


class WorkerThread:
    """Does what it is given in order."""

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def call(self, function: Callable[..., T], *given: Any) -> T:
        """Return what `function` returns, or raise what it raises. When nobody waits any more it is done all the same.

        Raises RuntimeError after `stop`.
        """
        if self._stopped:
            raise RuntimeError(f"the thread {self._thread.name} was stopped")
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[T] = loop.create_future()

        def call() -> None:
            try:
                tell = partial(waiting.set_result, function(*given))
            except BaseException as error:
                tell = partial(waiting.set_exception, error)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(_unless_done, waiting, tell)

        self._calls.put(call)
        return await waiting

    async def stop(self) -> None:
        """Return when all that was given is done, and the thread is gone."""
        self._stopped = True
        self._calls.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
            del call  # what it holds is not to be held while the thread waits


def _unless_done(waiting: "asyncio.Future[Any]", tell: Callable[[], None]) -> None:
    if not waiting.done():  # whoever waited may have been cancelled
        tell()
