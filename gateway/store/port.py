"""What the gateway asks of a store. The same tests run over every implementation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.bots import Bot, BotDraft


@dataclass(frozen=True, slots=True)
class BotPage:
    """Some bots in the order of their names."""

    bots: Sequence[Bot]
    next_after: str | None
    """Pass it as `after` for the next page; None on the last."""


class Store(Protocol):
    """Keeps bots. Each call is one transaction: it happens whole or not at all, whoever else writes.

    Every method raises StoreUnavailable when the place where bots are kept cannot be used.
    """

    async def get(self, bot_id: str) -> Bot:
        """Return a bot. Raises BotNotFound."""
        ...

    async def page(self, *, limit: int, after: str = "") -> BotPage:
        """Return up to `limit` bots whose names come after `after`, in order."""
        ...

    async def put(self, draft: BotDraft) -> Bot:
        """Create the bot, or replace all of it but its creation time."""
        ...

    async def teach(self, draft: BotDraft) -> Bot:
        """Create the bot, or replace its knowledge alone."""
        ...

    async def delete(self, bot_id: str) -> None:
        """Remove a bot. Raises BotNotFound."""
        ...

    async def teach_all(self, drafts: Sequence[BotDraft], *, replace: bool) -> Sequence[Bot]:
        """Teach all of them or, when anything is wrong, none.

        Raises BotExists, naming them, when some exist and `replace` is false.
        """
        ...
