"""Bots in memory, for tests and trials: gone when the process ends."""

import dataclasses
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from gateway.bots import Bot, BotDraft
from gateway.errors import BotExists, BotNotFound
from gateway.store.port import BotPage


def now() -> datetime:
    """Return the time in UTC."""
    return datetime.now(UTC)


class MemoryStore:
    """A `Store` in a dictionary. No method awaits anything, so each is one transaction by itself."""

    def __init__(self, clock: Callable[[], datetime] = now) -> None:
        self._clock = clock
        self._bots: dict[str, Bot] = {}

    async def get(self, bot_id: str) -> Bot:
        """Return a bot. Raises BotNotFound."""
        if bot_id not in self._bots:
            raise BotNotFound(bot_id)
        return self._bots[bot_id]

    async def page(self, *, limit: int, after: str = "") -> BotPage:
        """Return up to `limit` bots whose names come after `after`, in order."""
        names = sorted(name for name in self._bots if name > after)
        shown = names[:limit]
        return BotPage([self._bots[name] for name in shown], shown[-1] if len(names) > limit else None)

    async def put(self, draft: BotDraft) -> Bot:
        """Create the bot, or replace all of it but its creation time."""
        return self._write(draft)

    async def teach(self, draft: BotDraft) -> Bot:
        """Create the bot, or replace its knowledge alone."""
        old = self._bots.get(draft.bot_id)
        if old:
            draft = dataclasses.replace(draft, instruction=old.instruction, parameters=old.parameters)
        return self._write(draft)

    async def delete(self, bot_id: str) -> None:
        """Remove a bot. Raises BotNotFound."""
        if self._bots.pop(bot_id, None) is None:
            raise BotNotFound(bot_id)

    async def teach_all(self, drafts: Sequence[BotDraft], *, replace: bool) -> Sequence[Bot]:
        """Teach all of them or none. Raises BotExists when some exist and `replace` is false."""
        existing = sorted(draft.bot_id for draft in drafts if draft.bot_id in self._bots)
        if existing and not replace:
            raise BotExists(f"these bots exist already: {', '.join(existing)}")
        return [await self.teach(draft) for draft in drafts]

    def _write(self, draft: BotDraft) -> Bot:
        old, now = self._bots.get(draft.bot_id), self._clock()
        bot = Bot(
            bot_id=draft.bot_id,
            knowledge=draft.knowledge,
            instruction=draft.instruction,
            parameters=dict(draft.parameters),
            created_at=old.created_at if old else now,
            updated_at=now,
            revision=old.revision + 1 if old else 1,
        )
        self._bots[bot.bot_id] = bot
        return bot
