"""What the routes work with, made once by the composition root; and how a route asks for it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Self, cast

from fastapi import Depends, Request
from opentelemetry.trace import TracerProvider

from gateway.bots import BotRules
from gateway.chat import Chat
from gateway.conversations import Conversations
from gateway.inference import Inference
from gateway.keys import Caller, Keys
from gateway.limits import Standing
from gateway.metrics import Metrics
from gateway.problems import rate_limit_headers
from gateway.readiness import Readiness
from gateway.rollout import Rollout
from gateway.store.port import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The parts behind the routes."""

    rules: BotRules
    store: Store
    keys: Keys
    inference: Inference
    readiness: Readiness
    rollout: Rollout
    conversations: Conversations
    chat: Chat
    max_document_bytes: int
    readers: asyncio.Semaphore
    """How many documents are read at a time, each in a process that may take a gigabyte; others wait."""
    metrics: Metrics
    tracers: TracerProvider | None
    """None where nothing is traced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """Who asks a bot, and what answers. No dependency: FastAPI takes longer to find one than all of this takes."""

    chat: Chat
    caller: Caller
    request_id: str
    limited: Callable[[Standing], None]
    """Tell it how the limits stand: the response will say so, whatever becomes of it."""

    @classmethod
    def of(cls, request: Request) -> Self:
        """Return who makes this request, to a route that asks who calls."""
        state = request.state

        def limited(standing: Standing) -> None:
            state.rate_limit_headers = rate_limit_headers(standing)

        chat = cast("Services", request.app.state.services).chat
        return cls(chat=chat, caller=state.caller, request_id=state.request_id, limited=limited)


async def _services(request: Request) -> Services:
    return cast("Services", request.app.state.services)


async def _caller(request: Request) -> Caller:
    return cast("Caller", request.state.caller)


ServicesOf = Annotated[Services, Depends(_services)]
CallerOf = Annotated[Caller, Depends(_caller)]
