"""Whether messages can be answered, told fast also when everybody is busy."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from gateway.errors import GatewayError
from gateway.inference import Inference

PATIENCE_SECONDS: Final = 0.005
"""How long a probe waits for news while there is a good old answer. A prober gives up after a second or so; under full
load TorchServe's management API has been seen to take 120 ms."""

TRUST_SECONDS: Final = 10.0
"""How long a good answer may stand in for one that is late."""


class Readiness:
    """The last word on whether the model answers. At most one question to it is under way."""

    def __init__(self, inference: Inference, clock: Callable[[], float] = time.monotonic) -> None:
        self._inference, self._clock = inference, clock
        self._asking: asyncio.Task[None] | None = None
        self._good_at = float("-inf")

    async def check(self) -> None:
        """Return when the model is ready, or was moments ago and has not said otherwise. Raises what `ready` raises."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        asking = self._asking
        trusted = self._clock() - self._good_at < TRUST_SECONDS
        await asyncio.wait({asking}, timeout=PATIENCE_SECONDS if trusted else None)
        if asking.done():
            asking.result()

    async def close(self) -> None:
        """Stop asking."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _ask(self) -> None:
        try:
            await self._inference.ready()
        except GatewayError:
            self._good_at = float("-inf")
            raise
        self._good_at = self._clock()
