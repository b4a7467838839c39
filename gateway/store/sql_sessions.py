"""Sessions in a SQL database. Foreign keys remove what was said with its session, and sessions with their bot."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import bindparam, delete, func, insert, select
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from gateway.conversations import Exchange, Recent, Session, new_session_id
from gateway.errors import BotNotFound, SessionNotFound, TooManySessions
from gateway.store.port import SessionPage
from gateway.store.prepared import Prepared, Row
from gateway.store.schema import exchanges, sessions
from gateway.store.transactions import SqlDatabase

_ALIVE = (
    sessions.c.session_id == bindparam("session"),
    sessions.c.bot_id == bindparam("bot"),
    sessions.c.updated_at >= bindparam("since"),
)
_LIVING: Final = Prepared(select(sessions).where(*_ALIVE))

# One statement: every question in a session asks it. A session without exchanges gives one row with nulls. Nothing is
# sorted: numbers have no gap, so the last ones are a range of the key, and the order by both keys is the indexes' own.
# SQLite takes half the steps that it takes by the number alone and a LIMIT.
_LAST: Final = exchanges.c.number > sessions.c.exchanges - bindparam("most")
_RECENT: Final = Prepared(
    select(sessions.c.exchanges, exchanges.c.message, exchanges.c.response)
    .select_from(sessions)
    .outerjoin(exchanges, (exchanges.c.session_id == sessions.c.session_id) & _LAST)
    .where(*_ALIVE)
    .order_by(sessions.c.session_id, exchanges.c.number)
)

_HOW_MANY: Final = select(func.count()).where(sessions.c.bot_id == bindparam("bot"))

# The session's row is locked, so that numbers follow each other without a gap; a trigger counts in it.
_SAY: Final = Prepared(
    insert(exchanges)
    .from_select(
        [exchanges.c.session_id, exchanges.c.number, exchanges.c.message, exchanges.c.response, exchanges.c.created_at],
        select(
            sessions.c.session_id,
            sessions.c.exchanges + 1,
            bindparam("message", type_=exchanges.c.message.type),
            bindparam("response", type_=exchanges.c.response.type),
            bindparam("moment", type_=exchanges.c.created_at.type),
        )
        .where(sessions.c.session_id == bindparam("session"), sessions.c.bot_id == bindparam("bot"))
        .with_for_update(),
    )
    .returning(exchanges.c.number)
)


class SqlSessions(SqlDatabase):
    """A `SessionStore`."""

    async def create_session(self, bot_id: str, *, most: int | None = None) -> Session:
        """Begin a session. Raises BotNotFound; TooManySessions when the bot has `most` already."""
        moment = self._clock()
        session = Session(
            session_id=new_session_id(moment), bot_id=bot_id, created_at=moment, updated_at=moment, exchanges=0
        )
        statement = insert(sessions).values(
            session_id=session.session_id, bot_id=bot_id, created_at=moment, updated_at=moment, exchanges=0
        )

        def create(connection: Connection) -> None:
            if most is not None and connection.execute(_HOW_MANY, {"bot": bot_id}).scalar_one() >= most:
                raise TooManySessions(bot_id, most)
            connection.execute(statement)

        try:
            await self._write(create)
        except IntegrityError as error:  # the only key that can fail is the bot's
            raise BotNotFound(bot_id) from error
        return session

    async def get_session(self, bot_id: str, session_id: str, *, since: datetime) -> Session:
        """Return a session. Raises SessionNotFound, also when it is another bot's."""
        rows = await self._rows(_LIVING, bot=bot_id, session=session_id, since=since)
        if not rows:
            raise SessionNotFound(bot_id)
        return Session(**rows[0])

    async def page_sessions(self, bot_id: str, *, limit: int, after: str = "", since: datetime) -> SessionPage:
        """Return up to `limit` sessions that were begun before `after`, the newest first."""
        query = select(sessions).where(sessions.c.bot_id == bot_id, sessions.c.updated_at >= since)
        if after:
            query = query.where(sessions.c.session_id < after)
        rows = await self._many_rows(query.order_by(sessions.c.session_id.desc()).limit(limit + 1))
        shown = [Session(**row) for row in rows[:limit]]
        return SessionPage(shown, shown[-1].session_id if len(rows) > limit else None)

    async def page_exchanges(self, session_id: str, *, limit: int, after: int = 0) -> Sequence[Exchange]:
        """Return up to `limit` exchanges with numbers above `after`, in order."""
        query = select(exchanges).where(exchanges.c.session_id == session_id, exchanges.c.number > after)
        return [_exchange(row) for row in await self._many_rows(query.order_by(exchanges.c.number).limit(limit))]

    async def recent(self, bot_id: str, session_id: str, *, limit: int, since: datetime) -> Recent:
        """Return the last `limit` exchanges of a session. Raises SessionNotFound as `get_session`."""
        rows = await self._rows(_RECENT, bot=bot_id, session=session_id, since=since, most=limit)
        if not rows:
            raise SessionNotFound(bot_id)
        said = [row for row in rows if row["message"] is not None]
        turns = [turn for row in said for turn in (row["message"], row["response"])]
        return Recent(turns=turns, exchanges=rows[0]["exchanges"])

    async def append(self, bot_id: str, session_id: str, message: str, response: str) -> Exchange:
        """Append an exchange; of several at once each gets a number of its own. Raises SessionNotFound."""
        moment = self._clock()
        row = await self._write_one(
            _SAY, bot=bot_id, session=session_id, message=message, response=response, moment=moment
        )
        if row is None:
            raise SessionNotFound(bot_id)
        return Exchange(number=row["number"], message=message, response=response, created_at=moment)

    async def delete_session(self, bot_id: str, session_id: str) -> None:
        """Remove a session with all that was said. Raises SessionNotFound."""
        statement = delete(sessions).where(sessions.c.session_id == session_id, sessions.c.bot_id == bot_id)
        if not await self._write(lambda connection: connection.execute(statement).rowcount):
            raise SessionNotFound(bot_id)

    async def sweep_sessions(self, *, before: datetime, limit: int) -> int:
        """Remove up to `limit` sessions that were quiet since `before`; return how many."""
        over = select(sessions.c.session_id).where(sessions.c.updated_at < before).limit(limit)
        statement = delete(sessions).where(sessions.c.session_id.in_(over))
        return await self._write(lambda connection: connection.execute(statement).rowcount)


def _exchange(row: Row) -> Exchange:
    return Exchange(**{name: row[name] for name in ("number", "message", "response", "created_at")})
