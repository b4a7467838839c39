"""Conversations with a bot: sessions that remember what was said, and when they are forgotten."""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from gateway.errors import StoreUnavailable

if TYPE_CHECKING:
    from gateway.store.port import SessionStore

RECENT_EXCHANGES: Final = 16
"""How far back a prompt can reach: a budget of 512 tokens holds no more."""

SWEEP_SECONDS: Final = 60.0
SWEEP_SESSIONS: Final = 500
"""Most sessions forgotten in one transaction, so that no writer waits long."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A conversation of one person with one bot. Whoever knows its id may read it, so nobody can guess one."""

    session_id: str
    bot_id: str
    created_at: datetime
    updated_at: datetime
    """When something was last said."""
    exchanges: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A message and the answer to it, kept together or not at all."""

    number: int
    """1 for the first of its session."""
    message: str
    response: str
    created_at: datetime


def new_session_id(moment: datetime) -> str:
    """Return an id that sorts by `moment` and holds 96 random bits."""
    return f"{int(moment.timestamp() * 1000):012x}{secrets.token_hex(12)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversations:
    """Sessions that end when nothing was said for `idle`. `store` keeps them."""

    store: "SessionStore"
    idle: timedelta
    clock: Callable[[], datetime]

    @property
    def since(self) -> datetime:
        """Sessions that were quiet since then are over."""
        return self.clock() - self.idle

    async def turns(self, bot_id: str, session_id: str) -> list[str]:
        """Return what was said last, by turns. Raises SessionNotFound or StoreUnavailable."""
        recent = await self.store.recent_exchanges(bot_id, session_id, limit=RECENT_EXCHANGES, since=self.since)
        return [turn for exchange in recent for turn in (exchange.message, exchange.response)]

    async def remember(self, bot_id: str, session_id: str, message: str, response: str) -> None:
        """Append an exchange. Raises SessionNotFound or StoreUnavailable."""
        await self.store.append(bot_id, session_id, message, response)

    async def sweep(self, stop: asyncio.Event) -> None:
        """Forget sessions that are over, until `stop` is set: a transaction that is cancelled leaves its connection
        to be closed by nobody knows when.
        """
        while not stop.is_set():
            swept = 0
            try:
                swept = await self.store.sweep_sessions(before=self.since, limit=SWEEP_SESSIONS)
            except StoreUnavailable as error:
                logger.warning("expired sessions stay for now: %s", error.detail)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0 if swept == SWEEP_SESSIONS else SWEEP_SECONDS):
                    await stop.wait()


def by_turns(messages: Sequence[tuple[str, str]]) -> list[str]:
    """Return a dialogue of (role, text) by turns; messages of one side in a row are one turn."""
    turns: list[str] = []
    previous = None
    for role, text in messages:
        if role == previous:
            turns[-1] += f"\n{text}"
        else:
            turns.append(text)
        previous = role
    return turns
