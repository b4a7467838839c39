"""Every store keeps keys alike."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.errors import KeyNotFound
from gateway.keys import Key
from gateway.store.memory import MemoryStore
from gateway.store.port import KeyStore
from gateway.store.sql import SqlStore

pytestmark = pytest.mark.anyio

MOMENT = datetime(2026, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)


def key(key_id: str, bots: tuple[str, ...] | None = None) -> Key:
    return Key(
        key_id=key_id,
        name="sité",
        scope="edit",
        bots=bots,
        limits={"tokens_per_minute": 9},
        digest="0" * 64,
        created_at=MOMENT,
        expires_at=None,
    )


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[KeyStore]:
    if request.param == "memory":
        yield MemoryStore()
        return
    sqlite = f"sqlite:///{tmp_path}/bots.db"
    async with SqlStore.open(
        sqlite if request.param == "sqlite" else request.getfixturevalue("postgres").new_url()
    ) as it:
        yield it


@pytest.mark.parametrize("bots", [None, ("a", "b")])
async def test_a_key_comes_back_as_it_was(store: KeyStore, bots: tuple[str, ...] | None) -> None:
    await store.add_key(key("k1", bots))
    assert await store.get_key("k1") == key("k1", bots)


async def test_keys_are_paged_in_the_order_of_their_ids(store: KeyStore) -> None:
    for name in ("k3", "k1", "K2"):
        await store.add_key(key(name))
    page = await store.page_keys(limit=2)
    assert ([found.key_id for found in page.keys], page.next_after) == (["K2", "k1"], "k1")
    rest = await store.page_keys(limit=2, after="k1")
    assert ([found.key_id for found in rest.keys], rest.next_after) == (["k3"], None)


async def test_a_rotation_happens_whole_or_not_at_all(store: KeyStore) -> None:
    await store.add_key(key("old"))
    until = MOMENT + timedelta(hours=1)
    await store.rotate_key("old", key("new"), retires_at=until)
    assert await store.get_key("old") == replace(key("old"), retires_at=until)
    assert await store.get_key("new") == key("new")
    with pytest.raises(KeyNotFound):
        await store.rotate_key("gone", key("heir"), retires_at=until)
    with pytest.raises(KeyNotFound):
        await store.get_key("heir")


async def test_a_deleted_key_is_gone_and_touching_it_harms_nobody(store: KeyStore) -> None:
    await store.add_key(key("k1"))
    await store.touch_key("k1", MOMENT)
    assert (await store.get_key("k1")).last_used_at == MOMENT
    await store.delete_key("k1")
    await store.touch_key("k1", MOMENT)
    for act in (store.get_key, store.delete_key):
        with pytest.raises(KeyNotFound):
            await act("k1")
