"""Bots in a SQL database, through SQLAlchemy: SQLite by default, others by URL.

Every write is one statement, so that the database itself settles who comes first and no writer has to read
before it writes.
"""

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any, Final

from sqlalchemy import ColumnElement, Executable, bindparam, delete, func, select, update
from sqlalchemy.engine import Connection

from gateway.bots import Bot, BotDraft, BotEntry
from gateway.errors import BotChanged, BotExists, BotNotFound
from gateway.store.port import BotPage
from gateway.store.prepared import Prepared, Row
from gateway.store.schema import bots
from gateway.store.sql_keys import SqlKeys
from gateway.store.sql_routing import SqlRouting
from gateway.store.sql_sessions import SqlSessions
from gateway.store.transactions import SqlDatabase

_EVERYTHING = ("knowledge", "instruction", "parameters", "name", "limits", "updated_at")
_KNOWLEDGE_ALONE = ("knowledge", "updated_at")

_SUMMARY: Final = (
    *(bots.c[name] for name in ("bot_id", "name", "instruction", "created_at", "updated_at")),
    func.length(bots.c.knowledge).label("knowledge_characters"),
)
_BY_NAME: Final = Prepared(select(bots).where(bots.c.bot_id == bindparam("name")))


class SqlBots(SqlDatabase):
    """A `BotStore`."""

    async def get(self, bot_id: str) -> Bot:
        """Return a bot. Raises BotNotFound."""
        rows = await self._rows(_BY_NAME, name=bot_id)
        if not rows:
            raise BotNotFound(bot_id)
        return _bot(rows[0])

    async def page(self, *, limit: int, after: str = "", only: Collection[str] | None = None) -> BotPage:
        """Return up to `limit` bots whose names come after `after`, in order; of `only`, when that is given."""
        query = select(*_SUMMARY).where(bots.c.bot_id > after).order_by(bots.c.bot_id).limit(limit + 1)
        if only is not None:
            query = query.where(bots.c.bot_id.in_(only))
        rows = await self._many_rows(query)
        shown = [BotEntry(**row) for row in rows[:limit]]
        return BotPage(shown, shown[-1].bot_id if len(rows) > limit else None)

    async def put(self, draft: BotDraft) -> Bot:
        """Create the bot, or replace all of it but its creation time."""
        return await self._write(partial(self._put, draft, _EVERYTHING))

    async def create(self, draft: BotDraft) -> Bot:
        """Create the bot. Raises BotExists when there is one of that name."""
        statement = self._insert(bots).values(self._new(draft)).on_conflict_do_nothing().returning(bots)
        row = await self._write(partial(_first, statement))
        if row is None:
            raise BotExists.of(draft.bot_id)
        return _bot(row)

    async def replace(self, seen: Bot, draft: BotDraft) -> Bot:
        """Replace all of a bot but its creation time. Raises BotChanged when it is no longer as `seen`."""
        values = {name: value for name, value in self._new(draft).items() if name in _EVERYTHING}
        statement = update(bots).where(*_unchanged(seen)).values(values | {"revision": seen.revision + 1})
        row = await self._write(partial(_first, statement.returning(bots)))
        if row is None:
            raise BotChanged(seen.bot_id)
        return _bot(row)

    async def teach(self, draft: BotDraft) -> Bot:
        """Create the bot, or replace its knowledge alone."""
        return await self._write(partial(self._put, draft, _KNOWLEDGE_ALONE))

    async def delete(self, bot_id: str, *, seen: Bot | None = None) -> None:
        """Remove a bot with its sessions. Raises BotNotFound; BotChanged when it is not as `seen`."""
        condition = _unchanged(seen) if seen else [bots.c.bot_id == bot_id]
        statement = delete(bots).where(*condition)
        if not await self._write(lambda connection: connection.execute(statement).rowcount):
            raise BotChanged(bot_id) if seen else BotNotFound(bot_id)

    async def teach_all(self, drafts: Sequence[BotDraft], *, replace: bool) -> Sequence[Bot]:
        """Teach all of them or none. Raises BotExists when some exist and `replace` is false."""

        def teach(connection: Connection) -> Sequence[Bot]:
            written = [self._put(draft, _KNOWLEDGE_ALONE, connection) for draft in drafts]
            existing = sorted(bot.bot_id for bot in written if bot.revision > 1)
            if existing and not replace:
                raise BotExists.of(*existing)  # undoes all of it
            return written

        return await self._write(teach)

    def _put(self, draft: BotDraft, replaced: Sequence[str], connection: Connection) -> Bot:
        """Insert `draft`, or replace the columns `replaced` of the bot that has its name."""
        statement = self._insert(bots).values(self._new(draft))
        new: dict[str, Any] = {name: statement.excluded[name] for name in replaced}
        new["revision"] = bots.c.revision + 1
        statement = statement.on_conflict_do_update(index_elements=[bots.c.bot_id], set_=new).returning(bots)
        return _bot(connection.execute(statement).mappings().one())

    def _new(self, draft: BotDraft) -> dict[str, Any]:
        """Return the row of a bot that is new."""
        moment = self._clock()
        return {
            "bot_id": draft.bot_id,
            "knowledge": draft.knowledge,
            "instruction": draft.instruction,
            "parameters": dict(draft.parameters),
            "name": draft.name,
            "limits": dict(draft.limits),
            "created_at": moment,
            "updated_at": moment,
            "revision": 1,
        }


def _unchanged(seen: Bot) -> list[ColumnElement[bool]]:
    """Return what holds while the bot is as it was seen; a deleted one that was made anew is another."""
    return [bots.c.bot_id == seen.bot_id, bots.c.revision == seen.revision, bots.c.created_at == seen.created_at]


def _first(statement: Executable, connection: Connection) -> Row | None:
    return connection.execute(statement).mappings().one_or_none()


def _bot(row: Row) -> Bot:
    return Bot(**row)


class SqlStore(SqlBots, SqlSessions, SqlKeys, SqlRouting):
    """A `Store` in one database."""
