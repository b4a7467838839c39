"""Makes the next steps' batches while the device computes: a GPU never waits for Python."""

import contextlib
import queue
import threading
from collections.abc import Generator, Iterator

import torch

from training.batches import Batch, Position

Steps = Iterator[tuple[list[Batch], Position]]


def ahead(steps: Steps, device: torch.device, depth: int = 4) -> Generator[tuple[list[Batch], Position]]:
    """Yield what `steps` yields, up to `depth` steps of it made ahead by a thread and already on their way to `device`.

    What `steps` raises is raised here, in its place. Closing the generator ends the thread.
    """
    made: queue.Queue[tuple[list[Batch], Position] | BaseException | None] = queue.Queue(depth)
    closed = threading.Event()

    def put(item: tuple[list[Batch], Position] | BaseException | None) -> None:
        while not closed.is_set():
            with contextlib.suppress(queue.Full):
                made.put(item, timeout=0.1)
                return

    def work() -> None:
        try:
            for batches, position in steps:
                put(([batch.to(device) for batch in batches], position))
                if closed.is_set():
                    return
            put(None)
        except BaseException as error:  # handed over whatever it is
            put(error)

    thread = threading.Thread(target=work, name="batches", daemon=True)
    thread.start()
    try:
        while (item := made.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        closed.set()
        thread.join(timeout=10)
