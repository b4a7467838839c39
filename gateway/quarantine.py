"""Prompts that end the model's worker. One may do so twice, then nobody gets to try it again for a while.

Nothing here asks the model a second time; clients do, for they are told to come back. Everything that was at the model
when its worker died is suspect, the innocent too, so suspects are tried one at a time: the guilty one shows itself, the
others are cleared by their answers.
"""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final

from gateway.errors import ModelRejected, ModelTimeout, WorkerDied
from gateway.inference import Inference, ModelDescription
from handler.contract.wire import GenerateReply, GenerateRequest

DEATHS: Final = 2
"""How often a prompt may be there when a worker dies. The first time may be chance."""

QUARANTINE_SECONDS: Final = 600.0
SAME_DEATH_SECONDS: Final = 1.0
"""A worker takes longer to come back: failures closer together are one death."""

MOST_SUSPECTS: Final = 1024


@dataclass(slots=True)
class _Suspicion:
    deaths: int
    last: float


class Quarantine:
    """An `Inference` that keeps from another one what has ended its workers. Remembers hashes, no text."""

    def __init__(self, inference: Inference, clock: Callable[[], float] = time.monotonic) -> None:
        self._inference, self._clock = inference, clock
        self._suspects: OrderedDict[bytes, _Suspicion] = OrderedDict()
        self._trial = asyncio.Lock()

    async def generate(self, request: GenerateRequest) -> GenerateReply:
        """Return the answer to one prompt. Raises ModelRejected for one that is in quarantine."""
        if self._suspected(request):
            async with self._trial_of(request):
                return await self._inference.generate(request)
        with self._judged(request):
            return await self._inference.generate(request)

    async def stream(self, request: GenerateRequest) -> AsyncGenerator[str | GenerateReply, None]:
        """Yield the answer to one prompt in parts. Raises as `generate`."""
        async with AsyncExitStack() as stack:
            if self._suspected(request):
                await stack.enter_async_context(self._trial_of(request))
            else:
                stack.enter_context(self._judged(request))
            parts = await stack.enter_async_context(aclosing(self._inference.stream(request)))
            async for part in parts:
                yield part

    async def ready(self) -> None:
        """Return when the model has answered."""
        await self._inference.ready()

    async def describe(self) -> ModelDescription:
        """Return what is served."""
        return await self._inference.describe()

    @asynccontextmanager
    async def _trial_of(self, request: GenerateRequest) -> AsyncIterator[None]:
        """Let a suspect to the model when no other one is there."""
        try:
            async with asyncio.timeout(request.deadline - request.submitted_at if request.deadline else None):
                await self._trial.acquire()
        except TimeoutError as error:
            raise ModelTimeout("the deadline passed before the model was free to try this prompt again") from error
        try:
            self._suspected(request)  # those before it may have settled it
            with self._judged(request):
                yield
        finally:
            self._trial.release()

    def _suspected(self, request: GenerateRequest) -> bool:
        """Return whether a prompt is suspect. Raises ModelRejected when it is more than that."""
        if not self._suspects:  # mostly, and then nothing need be hashed
            return False
        name = _name(request)
        suspicion = self._suspects.get(name)
        if suspicion is None:
            return False
        if self._clock() - suspicion.last > QUARANTINE_SECONDS:
            del self._suspects[name]
            return False
        if suspicion.deaths >= DEATHS:
            minutes = QUARANTINE_SECONDS / 60
            raise ModelRejected(
                f"this prompt has ended the model's worker {suspicion.deaths} times; it is not tried for"
                f" {minutes:.0f} minutes",
                status=422,
            )
        return True

    @contextmanager
    def _judged(self, request: GenerateRequest) -> Iterator[None]:
        """Remember of a prompt at the model whether its worker dies."""
        try:
            yield
        except WorkerDied:
            self._accuse(_name(request))
            raise
        if self._suspects:
            self._suspects.pop(_name(request), None)

    def _accuse(self, name: bytes) -> None:
        moment = self._clock()
        suspicion = self._suspects.setdefault(name, _Suspicion(0, float("-inf")))
        if moment - suspicion.last > SAME_DEATH_SECONDS:
            suspicion.deaths += 1
        suspicion.last = moment
        self._suspects.move_to_end(name)
        if len(self._suspects) > MOST_SUSPECTS:
            self._suspects.popitem(last=False)


def _name(request: GenerateRequest) -> bytes:
    return hashlib.sha256(request.prompt.encode()).digest()
