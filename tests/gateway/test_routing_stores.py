"""Every store keeps the routing to model servers alike."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.deployments import Address, Routing
from gateway.errors import RoutingConflict
from gateway.store import sql_routing
from gateway.store.memory import MemoryStore
from gateway.store.port import RoutingStore
from gateway.store.sql import SqlStore

pytestmark = pytest.mark.anyio

SERVER = Address("http://10.0.0.2:8080", "http://10.0.0.2:8081")
CHANGED = Routing().put("2.0", [SERVER]).weigh("2.0", 20)


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RoutingStore]:
    if request.param == "memory":
        yield MemoryStore()
        return
    sqlite = f"sqlite+aiosqlite:///{tmp_path}/bots.db"
    async with SqlStore.open(
        sqlite if request.param == "sqlite" else request.getfixturevalue("postgres").new_url()
    ) as it:
        yield it


async def test_before_anything_was_written_the_settings_own_server_gets_all(store: RoutingStore) -> None:
    assert await store.read_routing() == Routing()


async def test_a_routing_comes_back_as_it_was(store: RoutingStore) -> None:
    await store.write_routing(CHANGED)
    assert await store.read_routing() == CHANGED


async def test_the_newest_revision_is_what_holds(store: RoutingStore) -> None:
    await store.write_routing(CHANGED)
    await store.write_routing(CHANGED.rolled_back())
    assert await store.read_routing() == CHANGED.rolled_back()


async def test_of_two_changes_of_the_same_state_one_is_refused(store: RoutingStore) -> None:
    first, second = Routing().put("2.0", [SERVER]), Routing().put("3.0", [SERVER])
    written = await asyncio.gather(store.write_routing(first), store.write_routing(second), return_exceptions=True)
    assert [type(each) for each in written if each] == [RoutingConflict]
    assert await store.read_routing() == (second if written[0] else first)


async def test_old_revisions_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_routing, "KEPT_REVISIONS", 2)
    url = f"sqlite+aiosqlite:///{tmp_path}/bots.db"
    async with SqlStore.open(url) as store:
        routing = CHANGED
        for weight in (30, 40, 50):
            await store.write_routing(routing)
            routing = routing.weigh("2.0", weight)
    with contextlib.closing(sqlite3.connect(tmp_path / "bots.db")) as database:
        found = database.execute("SELECT revision FROM model_routes ORDER BY revision").fetchall()
    assert found == [(3,), (4,)]
