"""Conversations with a bot: sessions that remember what was said, and when they are forgotten."""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import TYPE_CHECKING, Final

from gateway.errors import SessionFull, StoreUnavailable

if TYPE_CHECKING:
    from gateway.store.port import SessionStore

RECENT_EXCHANGES: Final = 16
TOKENS_OF_AN_EXCHANGE: Final = 32
"""Two short turns. Of a session no more exchanges are read than fill the prompt at this length."""

SWEEP_SECONDS: Final = 60.0
SWEEP_SESSIONS: Final = 500
"""Most sessions forgotten in one transaction, so that no writer waits long."""

CALM_SECONDS: Final = 3600.0
"""For how long the clock must have gone evenly before anything is forgotten by it. One that is wrong, after a start or
a jump, is mostly put right sooner, and what it made look old is there again."""

JUMP_SECONDS: Final = 60.0

logger = logging.getLogger(__name__)


def uptime() -> float:
    """Return seconds by a clock that nobody sets, and that goes on while the machine sleeps where there is one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Recent:
    """What was said last in a session."""

    turns: Sequence[str]
    """Messages and answers in turn, the oldest first."""
    exchanges: int
    """How many there were, these included."""


def new_session_id(moment: datetime) -> str:
    """Return an id that sorts by `moment` and holds 96 random bits."""
    return f"{int(moment.timestamp() * 1000):012x}{secrets.token_hex(12)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversations:
    """Sessions that end when nothing was said for `idle`. `store` keeps them."""

    store: "SessionStore"
    idle: timedelta
    clock: Callable[[], datetime]
    recent: int = RECENT_EXCHANGES
    """How many exchanges of a session are read for a prompt."""
    max_sessions: int = 100_000
    """Most of one bot; of several begun at the same moment a few may be more."""
    max_exchanges: int = 10_000
    """Most in one session; what is under way when it fills up is kept still, so that no answer is lost."""
    uptime: Callable[[], float] = uptime

    @property
    def since(self) -> datetime:
        """Sessions that were quiet since then are over."""
        return self.clock() - self.idle

    async def begin(self, bot_id: str) -> Session:
        """Begin a session. Raises BotNotFound, TooManySessions or StoreUnavailable."""
        return await self.store.create_session(bot_id, most=self.max_sessions)

    async def turns(self, bot_id: str, session_id: str) -> tuple[list[str], int]:
        """Return what was said last, by turns, and how many turns were said before.

        Raises SessionNotFound, SessionFull or StoreUnavailable.
        """
        recent = await self.store.recent(bot_id, session_id, limit=self.recent, since=self.since)
        if recent.exchanges >= self.max_exchanges:
            raise SessionFull(f"{self.max_exchanges} messages were answered in this session; begin another one")
        return list(recent.turns), 2 * recent.exchanges - len(recent.turns)

    async def remember(self, bot_id: str, session_id: str, message: str, response: str) -> None:
        """Append an exchange. Raises SessionNotFound or StoreUnavailable."""
        await self.store.append(bot_id, session_id, message, response)

    async def sweep(self, stop: asyncio.Event) -> None:
        """Forget sessions that are over, until `stop` is set: a transaction that is cancelled leaves its connection
        to be closed by nobody knows when. Waits with it while the clock is not to be trusted.
        """
        offset, even_since = self._offset(), self.uptime()
        while not stop.is_set():
            swept = 0
            if abs(self._offset() - offset) > JUMP_SECONDS:
                offset, even_since = self._offset(), self.uptime()
                logger.warning("the clock was set; for %.0f minutes no session is forgotten", CALM_SECONDS / 60)
            if self.uptime() - even_since >= CALM_SECONDS:
                swept = await self._sweep_some()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0 if swept == SWEEP_SESSIONS else SWEEP_SECONDS):
                    await stop.wait()

    async def _sweep_some(self) -> int:
        try:
            return await self.store.sweep_sessions(before=self.since, limit=SWEEP_SESSIONS)
        except StoreUnavailable as error:
            logger.warning("expired sessions stay for now: %s", error.detail)
            return 0

    def _offset(self) -> float:
        """Return the time at which the machine was started, in seconds, by the clock that may be set."""
        return self.clock().timestamp() - self.uptime()


def by_turns(messages: Sequence[tuple[str, str]]) -> list[str]:
    """Return a dialogue of (role, text) by turns; messages of one side in a row are one turn."""
    return ["\n".join(text for _, text in said) for _, said in groupby(messages, key=lambda message: message[0])]
