"""Bots, sessions and keys in memory, for tests and trials: gone when the process ends."""

import dataclasses
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime

from gateway.bots import Bot, BotDraft, BotEntry
from gateway.conversations import Exchange, Recent, Session, new_session_id
from gateway.deployments import Routing
from gateway.errors import (
    BotChanged,
    BotExists,
    BotNotFound,
    KeyNotFound,
    RoutingConflict,
    SessionNotFound,
    TooManySessions,
)
from gateway.keys import Key
from gateway.store.port import BotPage, KeyPage, SessionPage


def now() -> datetime:
    """Return the time in UTC."""
    return datetime.now(UTC)


def _summary(bot: Bot) -> BotEntry:
    return BotEntry(
        bot_id=bot.bot_id,
        name=bot.name,
        instruction=bot.instruction,
        knowledge_characters=len(bot.knowledge),
        created_at=bot.created_at,
        updated_at=bot.updated_at,
    )


class MemoryStore:
    """A `Store` in a dictionary. No method awaits anything, so each is one transaction by itself."""

    def __init__(self, clock: Callable[[], datetime] = now) -> None:
        self._clock = clock
        self._bots: dict[str, Bot] = {}
        self._sessions: dict[str, Session] = {}
        self._exchanges: dict[str, list[Exchange]] = {}
        self._keys: dict[str, Key] = {}
        self._routing = Routing()

    async def get(self, bot_id: str) -> Bot:
        """Return a bot. Raises BotNotFound."""
        if bot_id not in self._bots:
            raise BotNotFound(bot_id)
        return self._bots[bot_id]

    async def page(self, *, limit: int, after: str = "", only: Collection[str] | None = None) -> BotPage:
        """Return up to `limit` bots whose names come after `after`, in order; of `only`, when that is given."""
        names = sorted(name for name in self._bots if name > after and (only is None or name in only))
        shown = names[:limit]
        return BotPage([_summary(self._bots[name]) for name in shown], shown[-1] if len(names) > limit else None)

    async def put(self, draft: BotDraft) -> Bot:
        """Create the bot, or replace all of it but its creation time."""
        return self._write(draft)

    async def create(self, draft: BotDraft) -> Bot:
        """Create the bot. Raises BotExists when there is one of that name."""
        if draft.bot_id in self._bots:
            raise BotExists.of(draft.bot_id)
        return self._write(draft)

    async def replace(self, seen: Bot, draft: BotDraft) -> Bot:
        """Replace all of a bot but its creation time. Raises BotChanged when it is no longer as `seen`."""
        self._check_unchanged(seen)
        return self._write(draft)

    async def teach(self, draft: BotDraft) -> Bot:
        """Create the bot, or replace its knowledge alone."""
        old = self._bots.get(draft.bot_id)
        if old:
            draft = dataclasses.replace(
                draft, instruction=old.instruction, parameters=old.parameters, name=old.name, limits=old.limits
            )
        return self._write(draft)

    async def delete(self, bot_id: str, *, seen: Bot | None = None) -> None:
        """Remove a bot with its sessions. Raises BotNotFound; BotChanged when it is not as `seen`."""
        if seen:
            self._check_unchanged(seen)
        if self._bots.pop(bot_id, None) is None:
            raise BotNotFound(bot_id)
        for session in [session for session in self._sessions.values() if session.bot_id == bot_id]:
            self._forget(session)

    async def teach_all(self, drafts: Sequence[BotDraft], *, replace: bool) -> Sequence[Bot]:
        """Teach all of them or none. Raises BotExists when some exist and `replace` is false."""
        existing = sorted(draft.bot_id for draft in drafts if draft.bot_id in self._bots)
        if existing and not replace:
            raise BotExists.of(*existing)
        return [await self.teach(draft) for draft in drafts]

    def _write(self, draft: BotDraft) -> Bot:
        old, now = self._bots.get(draft.bot_id), self._clock()
        bot = Bot(
            bot_id=draft.bot_id,
            knowledge=draft.knowledge,
            instruction=draft.instruction,
            parameters=dict(draft.parameters),
            name=draft.name,
            limits=dict(draft.limits),
            created_at=old.created_at if old else now,
            updated_at=now,
            revision=old.revision + 1 if old else 1,
        )
        self._bots[bot.bot_id] = bot
        return bot

    def _check_unchanged(self, seen: Bot) -> None:
        if self._bots.get(seen.bot_id) != seen:
            raise BotChanged(seen.bot_id)

    async def create_session(self, bot_id: str, *, most: int | None = None) -> Session:
        """Begin a session. Raises BotNotFound; TooManySessions when the bot has `most` already."""
        await self.get(bot_id)
        if most is not None and sum(session.bot_id == bot_id for session in self._sessions.values()) >= most:
            raise TooManySessions(bot_id, most)
        moment = self._clock()
        session = Session(
            session_id=new_session_id(moment), bot_id=bot_id, created_at=moment, updated_at=moment, exchanges=0
        )
        self._sessions[session.session_id] = session
        self._exchanges[session.session_id] = []
        return session

    async def get_session(self, bot_id: str, session_id: str, *, since: datetime) -> Session:
        """Return a session. Raises SessionNotFound, also when it is another bot's."""
        session = self._sessions.get(session_id)
        if session is None or session.bot_id != bot_id or session.updated_at < since:
            raise SessionNotFound(bot_id)
        return session

    async def page_sessions(self, bot_id: str, *, limit: int, after: str = "", since: datetime) -> SessionPage:
        """Return up to `limit` sessions that were begun before `after`, the newest first."""
        found = [
            session
            for session_id, session in sorted(self._sessions.items(), reverse=True)
            if session.bot_id == bot_id and session.updated_at >= since and (not after or session_id < after)
        ]
        return SessionPage(found[:limit], found[limit - 1].session_id if len(found) > limit else None)

    async def page_exchanges(self, session_id: str, *, limit: int, after: int = 0) -> Sequence[Exchange]:
        """Return up to `limit` exchanges with numbers above `after`, in order."""
        return self._exchanges.get(session_id, [])[after : after + limit]

    async def recent(self, bot_id: str, session_id: str, *, limit: int, since: datetime) -> Recent:
        """Return the last `limit` exchanges of a session. Raises SessionNotFound as `get_session`."""
        session = await self.get_session(bot_id, session_id, since=since)
        last = self._exchanges.get(session_id, [])[-limit:]
        turns = [turn for exchange in last for turn in (exchange.message, exchange.response)]
        return Recent(turns=turns, exchanges=session.exchanges)

    async def append(self, bot_id: str, session_id: str, message: str, response: str) -> Exchange:
        """Append an exchange; of several at once each gets a number of its own. Raises SessionNotFound."""
        moment = self._clock()
        session = await self.get_session(bot_id, session_id, since=datetime.min.replace(tzinfo=UTC))
        number = session.exchanges + 1
        exchange = Exchange(number=number, message=message, response=response, created_at=moment)
        self._exchanges[session_id].append(exchange)
        self._sessions[session_id] = dataclasses.replace(session, updated_at=moment, exchanges=number)
        return exchange

    async def delete_session(self, bot_id: str, session_id: str) -> None:
        """Remove a session with all that was said. Raises SessionNotFound."""
        self._forget(await self.get_session(bot_id, session_id, since=datetime.min.replace(tzinfo=UTC)))

    async def sweep_sessions(self, *, before: datetime, limit: int) -> int:
        """Remove up to `limit` sessions that were quiet since `before`; return how many."""
        over = [session for session in self._sessions.values() if session.updated_at < before][:limit]
        for session in over:
            self._forget(session)
        return len(over)

    async def add_key(self, key: Key) -> None:
        """Keep a new key."""
        self._keys[key.key_id] = key

    async def get_key(self, key_id: str) -> Key:
        """Return a key, expired or not. Raises KeyNotFound."""
        if key_id not in self._keys:
            raise KeyNotFound
        return self._keys[key_id]

    async def page_keys(self, *, limit: int, after: str = "") -> KeyPage:
        """Return up to `limit` keys whose ids come after `after`, in order."""
        found = [key for key_id, key in sorted(self._keys.items()) if key_id > after]
        return KeyPage(found[:limit], found[limit - 1].key_id if len(found) > limit else None)

    async def rotate_key(self, old_id: str, new: Key, *, retires_at: datetime) -> None:
        """Keep `new`, and let the old key retire: both or neither. Raises KeyNotFound."""
        self._keys[old_id] = dataclasses.replace(await self.get_key(old_id), retires_at=retires_at)
        self._keys[new.key_id] = new

    async def delete_key(self, key_id: str) -> None:
        """Remove a key. Raises KeyNotFound."""
        await self.get_key(key_id)
        del self._keys[key_id]

    async def touch_key(self, key_id: str, moment: datetime) -> None:
        """Note when a key was used, if it is still there."""
        if key_id in self._keys:
            self._keys[key_id] = dataclasses.replace(self._keys[key_id], last_used_at=moment)

    async def read_routing(self) -> Routing:
        """Return the routing; what holds by default when none was written."""
        return self._routing

    async def write_routing(self, routing: Routing) -> None:
        """Keep a routing. Raises RoutingConflict when another one has its revision already."""
        if routing.revision <= self._routing.revision:
            raise RoutingConflict(f"revision {routing.revision} of the deployments was made by somebody else")
        self._routing = routing

    def _forget(self, session: Session) -> None:
        del self._sessions[session.session_id]
        del self._exchanges[session.session_id]
