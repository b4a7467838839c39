"""Keys in a SQL database."""

from datetime import datetime
from typing import Any

from sqlalchemy import delete, insert, select, update
from sqlalchemy.engine import RowMapping

from gateway.errors import KeyNotFound
from gateway.keys import Key
from gateway.store.port import KeyPage
from gateway.store.schema import keys
from gateway.store.transactions import SqlDatabase


class SqlKeys(SqlDatabase):
    """A `KeyStore`."""

    async def add_key(self, key: Key) -> None:
        """Keep a new key."""
        async with self._writing() as connection:
            await connection.execute(insert(keys).values(_row(key)))

    async def get_key(self, key_id: str) -> Key:
        """Return a key, expired or not. Raises KeyNotFound."""
        async with self._transaction() as connection:
            row = (await connection.execute(select(keys).where(keys.c.key_id == key_id))).mappings().one_or_none()
        if row is None:
            raise KeyNotFound(key_id)
        return _key(row)

    async def page_keys(self, *, limit: int, after: str = "") -> KeyPage:
        """Return up to `limit` keys whose ids come after `after`, in order."""
        query = select(keys).where(keys.c.key_id > after).order_by(keys.c.key_id).limit(limit + 1)
        async with self._transaction() as connection:
            rows = (await connection.execute(query)).mappings().all()
        shown = [_key(row) for row in rows[:limit]]
        return KeyPage(shown, shown[-1].key_id if len(rows) > limit else None)

    async def rotate_key(self, old_id: str, new: Key, *, until: datetime) -> None:
        """Keep `new`, and let the old key expire at `until`: both or neither. Raises KeyNotFound."""
        statement = update(keys).where(keys.c.key_id == old_id).values(expires_at=until)
        async with self._writing() as connection:
            if (await connection.execute(statement)).rowcount == 0:
                raise KeyNotFound(old_id)
            await connection.execute(insert(keys).values(_row(new)))

    async def delete_key(self, key_id: str) -> None:
        """Remove a key. Raises KeyNotFound."""
        async with self._writing() as connection:
            result = await connection.execute(delete(keys).where(keys.c.key_id == key_id))
        if result.rowcount == 0:
            raise KeyNotFound(key_id)

    async def touch_key(self, key_id: str, moment: datetime) -> None:
        """Note when a key was used, if it is still there."""
        async with self._writing() as connection:
            await connection.execute(update(keys).where(keys.c.key_id == key_id).values(last_used_at=moment))


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
    }


def _key(row: RowMapping) -> Key:
    return Key(**{**row, "bots": None if row["bots"] is None else tuple(row["bots"])})
