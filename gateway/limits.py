"""How much each key and each bot may ask in a minute. Counted by the library `limits`, here or in a shared Redis.

Windows are fixed: a minute begins with the first request in it. A request counts when it asks the model, a refused one
too; the tokens of prompt and answer count when the answer is there, so the last one of a minute may go over.
"""

import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Self, cast

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, RedisStorage, Storage
from limits.aio.strategies import FixedWindowRateLimiter
from limits.errors import ConfigurationError, StorageError
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from gateway.bots import Bot
from gateway.errors import Misconfigured, RateLimited
from gateway.keys import Caller

REQUESTS: Final = "requests_per_minute"
TOKENS: Final = "tokens_per_minute"

WINDOW_SECONDS: Final = 60.0

REDIS_SECONDS: Final = 0.5
"""How long an answer waits for Redis, which is usually there in less than a millisecond."""

REDIS_PAUSE_SECONDS: Final = 5.0
"""How long Redis is left alone after it has failed."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Standing:
    """How much is left of the limit that is nearest to its end."""

    limit: int
    remaining: int
    reset_seconds: int
    """Until all of it is there again."""


@dataclass(frozen=True, slots=True)
class _Quota:
    """One limit of one key or bot."""

    whose: str
    name: str
    kind: str
    amount: int

    @property
    def item(self) -> RateLimitItemPerMinute:
        return RateLimitItemPerMinute(self.amount)

    @property
    def identity(self) -> tuple[str, str, str]:
        return self.whose, self.name, self.kind


class RateLimits:
    """The limits of all keys and bots. When Redis is out of reach nobody is limited: answers are worth more."""

    def __init__(
        self, storage: Storage, defaults: Mapping[str, int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`defaults` hold for keys that have no limits of their own."""
        self._limiter = FixedWindowRateLimiter(storage)
        self._defaults = dict(defaults)
        self._clock = clock
        self._paused_until = 0.0

    @classmethod
    @asynccontextmanager
    async def open(cls, redis_url: str | None, defaults: Mapping[str, int]) -> AsyncIterator[Self]:
        """Yield limits that count in Redis, or in this process alone. Raises Misconfigured for a URL of nothing."""
        if redis_url is None:
            yield cls(MemoryStorage(), defaults)
            return
        try:
            storage = RedisStorage(
                f"async+{redis_url}",
                implementation="redispy",
                wrap_exceptions=True,
                key_prefix="godel",
                # The library's own default tries ten times more, while the request waits.
                retry=cast("Any", Retry(NoBackoff(), 0)),
                socket_timeout=REDIS_SECONDS,
                socket_connect_timeout=REDIS_SECONDS,
            )
        except (ConfigurationError, ValueError) as error:
            raise Misconfigured(f"redis_url cannot be used: {error}") from error
        try:
            yield cls(storage, defaults)
        finally:
            await cast("Any", storage.bridge).get_connection().aclose()  # the library closes no connections

    async def admit(self, caller: Caller, bot: Bot) -> Standing | None:
        """Count a request of `caller` to `bot`; return how they stand, None when nothing limits them.

        Raises RateLimited when a limit is used up.
        """
        quotas = self._quotas(caller, bot)
        if not quotas or self._clock() < self._paused_until:
            return None
        standings = []
        try:
            for quota in quotas:
                look = self._limiter.hit if quota.kind == REQUESTS else self._limiter.test
                free = await look(quota.item, *quota.identity)
                reset, remaining = await self._limiter.get_window_stats(quota.item, *quota.identity)
                if reset - time.time() > WINDOW_SECONDS + 1:  # the clock was set back, and this would last as long
                    await self._limiter.clear(quota.item, *quota.identity)
                    free = await look(quota.item, *quota.identity)
                    reset, remaining = await self._limiter.get_window_stats(quota.item, *quota.identity)
                seconds = max(1, round(reset - time.time()))
                standing = Standing(quota.amount, max(0, remaining), seconds)
                if not free:
                    what = quota.kind.replace("_per_minute", " a minute")
                    whose = f"the bot {quota.name}" if quota.whose == "bot" else "this key"
                    raise RateLimited(f"{whose} may have {quota.amount} {what}; wait {seconds} s", standing)
                standings.append(standing)
        except StorageError as error:
            self._pause(error)
            return None
        return min(standings, key=lambda standing: standing.remaining / standing.limit)

    async def spend(self, caller: Caller, bot: Bot, tokens: int) -> None:
        """Count the tokens of an answer."""
        if self._clock() < self._paused_until:
            return
        try:
            for quota in self._quotas(caller, bot):
                if quota.kind == TOKENS:
                    await self._limiter.hit(quota.item, *quota.identity, cost=tokens)
        except StorageError as error:
            self._pause(error)

    def _quotas(self, caller: Caller, bot: Bot) -> list[_Quota]:
        """Return what limits a request: tokens first, which are only looked at, so that a refusal costs nothing."""
        subjects = (("key", caller.key_id, {**self._defaults, **caller.limits}), ("bot", bot.bot_id, bot.limits))
        return [
            _Quota(whose, name, kind, limits[kind])
            for kind in (TOKENS, REQUESTS)
            for whose, name, limits in subjects
            if kind in limits
        ]

    def _pause(self, error: StorageError) -> None:
        self._paused_until = self._clock() + REDIS_PAUSE_SECONDS
        logger.warning(
            "limits are not kept for %.0f s: Redis failed (%s)", REDIS_PAUSE_SECONDS, type(error.storage_error).__name__
        )
