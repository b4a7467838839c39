"""Keys in a SQL database."""

from datetime import datetime
from typing import Any, Final

from sqlalchemy import bindparam, delete, insert, select, update
from sqlalchemy.engine import Connection

from gateway.errors import KeyNotFound
from gateway.keys import Key
from gateway.store.port import KeyPage
from gateway.store.prepared import Prepared, Row
from gateway.store.schema import keys
from gateway.store.transactions import SqlDatabase

_BY_ID: Final = Prepared(select(keys).where(keys.c.key_id == bindparam("id")))


class SqlKeys(SqlDatabase):
    """A `KeyStore`."""

    async def add_key(self, key: Key) -> None:
        """Keep a new key."""
        await self._write(lambda connection: connection.execute(insert(keys).values(_row(key))))

    async def get_key(self, key_id: str) -> Key:
        """Return a key, expired or not. Raises KeyNotFound."""
        rows = await self._rows(_BY_ID, id=key_id)
        if not rows:
            raise KeyNotFound
        return _key(rows[0])

    async def page_keys(self, *, limit: int, after: str = "") -> KeyPage:
        """Return up to `limit` keys whose ids come after `after`, in order."""
        rows = await self._many_rows(select(keys).where(keys.c.key_id > after).order_by(keys.c.key_id).limit(limit + 1))
        shown = [_key(row) for row in rows[:limit]]
        return KeyPage(shown, shown[-1].key_id if len(rows) > limit else None)

    async def rotate_key(self, old_id: str, new: Key, *, retires_at: datetime) -> None:
        """Keep `new`, and let the old key retire: both or neither. Raises KeyNotFound."""

        def rotate(connection: Connection) -> None:
            retire = update(keys).where(keys.c.key_id == old_id).values(retires_at=retires_at)
            if not connection.execute(retire).rowcount:
                raise KeyNotFound
            connection.execute(insert(keys).values(_row(new)))

        await self._write(rotate)

    async def delete_key(self, key_id: str) -> None:
        """Remove a key. Raises KeyNotFound."""
        statement = delete(keys).where(keys.c.key_id == key_id)
        if not await self._write(lambda connection: connection.execute(statement).rowcount):
            raise KeyNotFound

    async def touch_key(self, key_id: str, moment: datetime) -> None:
        """Note when a key was used, if it is still there."""
        statement = update(keys).where(keys.c.key_id == key_id).values(last_used_at=moment)
        await self._write(lambda connection: connection.execute(statement))


def _row(key: Key) -> dict[str, Any]:
    return {
        "key_id": key.key_id,
        "name": key.name,
        "scope": key.scope,
        "bots": None if key.bots is None else list(key.bots),
        "limits": dict(key.limits),
        "digest": key.digest,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "last_used_at": key.last_used_at,
        "retires_at": key.retires_at,
    }


def _key(row: Row) -> Key:
    return Key(**{**row, "bots": None if row["bots"] is None else tuple(row["bots"])})
