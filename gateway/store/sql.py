"""Bots in a SQL database, through SQLAlchemy: SQLite by default, others by URL.

Every write is one `INSERT ... ON CONFLICT DO UPDATE ... RETURNING`, so that the database itself settles
who comes first and no writer has to read before it writes.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from typing import Any, Self

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import RowMapping
from sqlalchemy.exc import DatabaseError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gateway.bots import Bot, BotDraft
from gateway.errors import BotExists, BotNotFound, StoreUnavailable
from gateway.store.database import migrate, open_engine
from gateway.store.memory import now
from gateway.store.port import BotPage
from gateway.store.schema import bots

_EVERYTHING = ("knowledge", "instruction", "parameters", "updated_at")
_KNOWLEDGE_ALONE = ("knowledge", "updated_at")


class SqlStore:
    """A `Store` in the database behind `engine`, whose schema is up to date."""

    def __init__(self, engine: AsyncEngine, clock: Callable[[], datetime] = now) -> None:
        self._engine = engine
        self._clock = clock
        self._insert: Callable[..., Any] = postgresql.insert if engine.dialect.name == "postgresql" else sqlite.insert

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[Self]:
        """Bring the database at `url` up to date, yield its store, close every connection after.

        Raises Misconfigured for a URL that names no database, StoreUnavailable when it cannot be opened.
        """
        engine = open_engine(url)
        try:
            try:
                with _translated():
                    await migrate(engine)
            except StoreUnavailable as error:
                # Whoever starts the gateway may know more than its clients. The URL hides its password in text.
                raise StoreUnavailable(f"{engine.url} cannot be opened: {_reason(error)}") from error
            yield cls(engine)
        finally:
            await engine.dispose()

    async def get(self, bot_id: str) -> Bot:
        """Return a bot. Raises BotNotFound."""
        async with self._transaction() as connection:
            row = (await connection.execute(select(bots).where(bots.c.bot_id == bot_id))).mappings().one_or_none()
        if row is None:
            raise BotNotFound(bot_id)
        return _bot(row)

    async def page(self, *, limit: int, after: str = "") -> BotPage:
        """Return up to `limit` bots whose names come after `after`, in order."""
        query = select(bots).where(bots.c.bot_id > after).order_by(bots.c.bot_id).limit(limit + 1)
        async with self._transaction() as connection:
            rows = (await connection.execute(query)).mappings().all()
        shown = [_bot(row) for row in rows[:limit]]
        return BotPage(shown, shown[-1].bot_id if len(rows) > limit else None)

    async def put(self, draft: BotDraft) -> Bot:
        """Create the bot, or replace all of it but its creation time."""
        async with self._transaction() as connection:
            return await self._write(connection, draft, _EVERYTHING)

    async def teach(self, draft: BotDraft) -> Bot:
        """Create the bot, or replace its knowledge alone."""
        async with self._transaction() as connection:
            return await self._write(connection, draft, _KNOWLEDGE_ALONE)

    async def delete(self, bot_id: str) -> None:
        """Remove a bot. Raises BotNotFound."""
        async with self._transaction() as connection:
            result = await connection.execute(delete(bots).where(bots.c.bot_id == bot_id))
        if result.rowcount == 0:
            raise BotNotFound(bot_id)

    async def teach_all(self, drafts: Sequence[BotDraft], *, replace: bool) -> Sequence[Bot]:
        """Teach all of them or none. Raises BotExists when some exist and `replace` is false."""
        async with self._transaction() as connection:
            written = [await self._write(connection, draft, _KNOWLEDGE_ALONE) for draft in drafts]
            existing = sorted(bot.bot_id for bot in written if bot.revision > 1)
            if existing and not replace:
                raise BotExists(f"these bots exist already: {', '.join(existing)}")  # rolls all of it back
        return written

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        with _translated():
            async with self._engine.begin() as connection:
                yield connection

    async def _write(self, connection: AsyncConnection, draft: BotDraft, replaced: Sequence[str]) -> Bot:
        """Insert `draft`, or replace the columns `replaced` of the bot that has its name."""
        moment = self._clock()
        statement = self._insert(bots).values(
            bot_id=draft.bot_id,
            knowledge=draft.knowledge,
            instruction=draft.instruction,
            parameters=dict(draft.parameters),
            created_at=moment,
            updated_at=moment,
            revision=1,
        )
        new: dict[str, Any] = {name: statement.excluded[name] for name in replaced}
        new["revision"] = bots.c.revision + 1
        statement = statement.on_conflict_do_update(index_elements=[bots.c.bot_id], set_=new).returning(bots)
        return _bot((await connection.execute(statement)).mappings().one())


def _bot(row: RowMapping) -> Bot:
    return Bot(**row)


def _reason(error: StoreUnavailable) -> str:
    cause = error.__cause__
    return str(cause.orig if isinstance(cause, DBAPIError) else cause)


@contextmanager
def _translated() -> Iterator[None]:
    """Turn what SQLAlchemy raises when the database is out of reach, locked or damaged into StoreUnavailable.

    What else it raises is a mistake of ours and passes.
    """
    try:
        yield
    except PoolTimeoutError as error:
        raise StoreUnavailable("the database has no free connection just now") from error
    except DBAPIError as error:
        # SQLite says of a damaged file no more than DatabaseError, the base of all that databases say.
        out_of_reach = isinstance(error, OperationalError | InterfaceError) or type(error) is DatabaseError
        if out_of_reach or error.connection_invalidated:
            raise StoreUnavailable("the database cannot be used just now") from error
        raise
