"""What the gateway asks of a store. The same tests run over every implementation."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from gateway.bots import Bot, BotDraft, BotEntry
from gateway.conversations import Exchange, Recent, Session
from gateway.deployments import Routing
from gateway.keys import Key


@dataclass(frozen=True, slots=True)
class BotPage:
    """Some bots in the order of their names."""

    bots: Sequence[BotEntry]
    next_after: str | None
    """Pass it as `after` for the next page; None on the last."""


@dataclass(frozen=True, slots=True)
class SessionPage:
    """Some sessions of a bot, the newest first."""

    sessions: Sequence[Session]
    next_after: str | None
    """Pass it as `after` for the next page; None on the last."""


@dataclass(frozen=True, slots=True)
class KeyPage:
    """Some keys, the oldest first."""

    keys: Sequence[Key]
    next_after: str | None
    """Pass it as `after` for the next page; None on the last."""


class BotStore(Protocol):
    """Keeps bots. Each call is one transaction: it happens whole or not at all, whoever else writes.

    Every method raises StoreUnavailable when the place where bots are kept cannot be used.
    """

    async def get(self, bot_id: str) -> Bot:
        """Return a bot. Raises BotNotFound."""
        ...

    async def page(self, *, limit: int, after: str = "", only: Collection[str] | None = None) -> BotPage:
        """Return up to `limit` bots whose names come after `after`, in order; of `only`, when that is given."""
        ...

    async def put(self, draft: BotDraft) -> Bot:
        """Create the bot, or replace all of it but its creation time."""
        ...

    async def create(self, draft: BotDraft) -> Bot:
        """Create the bot. Raises BotExists when there is one of that name."""
        ...

    async def replace(self, seen: Bot, draft: BotDraft) -> Bot:
        """Replace all of a bot but its creation time. Raises BotChanged when it is no longer as `seen`."""
        ...

    async def teach(self, draft: BotDraft) -> Bot:
        """Create the bot, or replace its knowledge alone."""
        ...

    async def delete(self, bot_id: str, *, seen: Bot | None = None) -> None:
        """Remove a bot with its sessions. Raises BotNotFound; BotChanged when it is not as `seen`."""
        ...

    async def teach_all(self, drafts: Sequence[BotDraft], *, replace: bool) -> Sequence[Bot]:
        """Teach all of them or, when anything is wrong, none.

        Raises BotExists, naming them, when some exist and `replace` is false.
        """
        ...


class SessionStore(Protocol):
    """Keeps sessions, under the same promises. One that was quiet since the moment `since` is over: not found."""

    async def create_session(self, bot_id: str, *, most: int | None = None) -> Session:
        """Begin a session. Raises BotNotFound; TooManySessions when the bot has `most` already."""
        ...

    async def get_session(self, bot_id: str, session_id: str, *, since: datetime) -> Session:
        """Return a session. Raises SessionNotFound, also when it is another bot's."""
        ...

    async def page_sessions(self, bot_id: str, *, limit: int, after: str = "", since: datetime) -> SessionPage:
        """Return up to `limit` sessions that were begun before `after`, the newest first."""
        ...

    async def page_exchanges(self, session_id: str, *, limit: int, after: int = 0) -> Sequence[Exchange]:
        """Return up to `limit` exchanges with numbers above `after`, in order."""
        ...

    async def recent(self, bot_id: str, session_id: str, *, limit: int, since: datetime) -> Recent:
        """Return the last `limit` exchanges of a session. Raises SessionNotFound as `get_session`."""
        ...

    async def append(self, bot_id: str, session_id: str, message: str, response: str) -> Exchange:
        """Append an exchange; of several at once each gets a number of its own. Raises SessionNotFound."""
        ...

    async def delete_session(self, bot_id: str, session_id: str) -> None:
        """Remove a session with all that was said. Raises SessionNotFound."""
        ...

    async def sweep_sessions(self, *, before: datetime, limit: int) -> int:
        """Remove up to `limit` sessions that were quiet since `before`; return how many."""
        ...


class KeyStore(Protocol):
    """Keeps keys, under the same promises."""

    async def add_key(self, key: Key) -> None:
        """Keep a new key."""
        ...

    async def get_key(self, key_id: str) -> Key:
        """Return a key, expired or not. Raises KeyNotFound."""
        ...

    async def page_keys(self, *, limit: int, after: str = "") -> KeyPage:
        """Return up to `limit` keys whose ids come after `after`, in order."""
        ...

    async def rotate_key(self, old_id: str, new: Key, *, retires_at: datetime) -> None:
        """Keep `new`, and let the old key retire: both or neither. Raises KeyNotFound."""
        ...

    async def delete_key(self, key_id: str) -> None:
        """Remove a key. Raises KeyNotFound."""
        ...

    async def touch_key(self, key_id: str, moment: datetime) -> None:
        """Note when a key was used, if it is still there."""
        ...


class RoutingStore(Protocol):
    """Keeps the routing to model servers, under the same promises."""

    async def read_routing(self) -> Routing:
        """Return the routing; what holds by default when none was written."""
        ...

    async def write_routing(self, routing: Routing) -> None:
        """Keep a routing. Raises RoutingConflict when another one has its revision already."""
        ...


class Store(BotStore, SessionStore, KeyStore, RoutingStore, Protocol):
    """All that the gateway keeps."""
