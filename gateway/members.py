"""The servers of a pool, as this process sees them: which live, how much they have to do, what they say."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Final

from gateway.deployments import Address, Deployment
from gateway.errors import ModelBusy, ModelError
from gateway.inference import Inference, ModelDescription

PROBE_PATIENCE_SECONDS: Final = 5.0
PROBES_MISSED: Final = 2
"""After how many probes without an answer a server is passed over: under load one may be late."""


@dataclass(eq=False, slots=True)
class Member:
    """One server of a deployment, as this process sees it."""

    deployment: str
    address: Address
    inference: Inference
    closing: AsyncExitStack
    live: bool = True
    in_flight: int = 0
    missed: int = 0
    """Probes without an answer, one after the other."""
    last_asked: int = 0
    retired: bool = False
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    async def probe(self) -> None:
        """Find out whether it answers."""
        try:
            async with asyncio.timeout(PROBE_PATIENCE_SECONDS):
                await self.inference.ready()
        except ModelBusy:
            pass  # it lives
        except (ModelError, TimeoutError):
            self.missed += 1
            self.live = self.live and self.missed < PROBES_MISSED
            return
        self.live, self.missed = True, 0

    async def retire(self) -> None:
        """Close its connections once the requests in flight are done."""
        self.retired = True
        while self.in_flight:
            self.idle.clear()
            await self.idle.wait()
        await self.closing.aclose()


@dataclass(slots=True)
class Group:
    """A deployment and its servers."""

    deployment: Deployment
    members: list[Member]

    @property
    def live(self) -> list[Member]:
        """The servers that are not passed over, the least busy first; of equals the one that was asked longest ago."""
        return sorted((each for each in self.members if each.live), key=lambda each: (each.in_flight, each.last_asked))

    async def describe(self) -> ModelDescription | ModelError:
        """Return what the first server says that answers, those that are known to live first; or why none does."""
        failure = ModelError("no model server is known")
        for member in [*self.live, *(member for member in self.members if not member.live)]:
            try:
                return await member.inference.describe()
            except ModelError as error:
                failure = error
        return failure
