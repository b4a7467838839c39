"""What the gateway asks of a model, whoever serves it."""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Protocol

from gateway.errors import ModelDown
from handler.contract.wire import GenerateReply, GenerateRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """One process that runs the model."""

    status: str
    pid: int | None

    @property
    def ready(self) -> bool:
        """Whether it has loaded the model."""
        return self.status == "READY"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentState:
    """One of several versions of the model that are served."""

    name: str
    weight: int
    """Percent of the requests."""
    version: str | None
    """What its servers say; None while none does."""
    instances: int
    live: int
    """How many of them are asked just now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDescription:
    """What is served. None where whoever serves it does not say."""

    name: str
    version: str | None = None
    engine: str | None = None
    precision: str | None = None
    device: str | None = None
    device_note: str | None = None
    """Why the device is not the one that was asked for."""
    slots: int | None = None
    """Most requests answered at the same time."""
    max_prompt_tokens: int | None = None
    max_new_tokens: int | None = None
    workers: tuple[Worker, ...] = ()
    queue_capacity: int | None = None
    """How many more requests the queue would take."""
    queue_pending: int | None = None
    """How many requests wait in the queue."""
    deployments: tuple[DeploymentState, ...] = ()
    """All versions that are served. The rest is about the one with the greatest share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutedReply(GenerateReply):
    """A reply, and which deployment it is of. It does not travel: the contract's own reply does."""

    deployment: str


class Inference(Protocol):
    """Answers prompts. Every method raises ModelBusy, ModelTimeout, ModelDown or ModelGarbled when it cannot."""

    async def generate(self, request: GenerateRequest) -> GenerateReply:
        """Return the answer to one prompt. Raises ModelRejected when the model refuses this very request.

        Cancelling the call frees what the request holds in the model.
        """
        ...

    def stream(self, request: GenerateRequest) -> AsyncGenerator[str | GenerateReply, None]:
        """Yield the answer to one prompt in parts as they are made, last the reply that `generate` would return.

        `request.stream` is set. Raises as `generate`, also after some parts. Closing the generator frees what
        the request holds in the model.
        """
        ...

    async def ready(self) -> None:
        """Return when the model has answered, since it was last started; raise when it cannot."""
        ...

    async def describe(self) -> ModelDescription:
        """Return what is served, as it is now."""
        ...


@dataclass(slots=True)
class EchoInference:
    """An `Inference` without a model: answers with the prompt, or as `answer` says. For tests and trials."""

    answer: Callable[[GenerateRequest], str] = lambda request: request.prompt
    failure: Exception | None = None
    """Raised by every method instead of answering."""
    gate: asyncio.Event | None = None
    """Answers wait until it is set."""
    breaks_after: int | None = None
    """A stream fails after this many words."""
    requests: list[GenerateRequest] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the first request has come."""
    cancelled: int = 0

    async def generate(self, request: GenerateRequest) -> GenerateReply:
        """Return `answer(request)`, a token for each word."""
        self.requests.append(request)
        self.asked.set()
        if self.gate is not None:
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        await self.ready()
        text = self.answer(request)
        return GenerateReply(
            request_id=request.request_id,
            text=text,
            finish_reason="stop",
            prompt_tokens=len(request.prompt.split()),
            completion_tokens=len(text.split()),
            queue_ms=0.5,
            compute_ms=1.5,
            batch_size=1,
        )

    async def stream(self, request: GenerateRequest) -> AsyncGenerator[str | GenerateReply, None]:
        """Yield `answer(request)` word by word."""
        reply = await self.generate(request)
        for number, word in enumerate(re.findall(r"\S+\s*|\s+", reply.text)):
            if number == self.breaks_after:
                raise ModelDown("the worker died while it answered")
            yield word
        yield reply

    async def ready(self) -> None:
        """Return at once, or raise `failure`."""
        if self.failure is not None:
            raise self.failure

    async def describe(self) -> ModelDescription:
        """Return what an echo is."""
        await self.ready()
        return ModelDescription(
            name="echo", version="1.0", engine="echo", precision="none", device="none", workers=(_ECHO_WORKER,)
        )


_ECHO_WORKER = Worker(status="READY", pid=None)
