"""Every store keeps sessions alike: apart from each other, in order, and only as long as they live."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.bots import BotDraft
from gateway.conversations import Session
from gateway.errors import BotNotFound, SessionNotFound, TooManySessions
from gateway.store.database import migrate, open_database
from gateway.store.memory import MemoryStore
from gateway.store.port import Store
from gateway.store.sql import SqlStore

pytestmark = pytest.mark.anyio

START = datetime(2026, 5, 6, 7, 8, 9, tzinfo=UTC)
LONG_AGO = START - timedelta(days=999)


class Clock:
    """A clock that goes a second at each look, or jumps."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> AsyncIterator[Store]:
    if request.param == "memory":
        opened: Store = MemoryStore(clock)
        database = None
    else:
        sqlite = f"sqlite:///{tmp_path}/bots.db"
        database = open_database(sqlite if request.param == "sqlite" else request.getfixturevalue("postgres").new_url())
        await migrate(database)
        opened = SqlStore(database, clock)
    for name in ("cricket", "chess"):
        await opened.put(BotDraft(bot_id=name))
    yield opened
    if database is not None:
        await database.dispose()


async def told(store: Store, session: Session) -> list[tuple[int, str, str]]:
    exchanges = await store.page_exchanges(session.session_id, limit=100)
    return [(exchange.number, exchange.message, exchange.response) for exchange in exchanges]


async def test_a_session_is_kept_with_what_was_said_in_it(store: Store) -> None:
    session = await store.create_session("cricket")
    assert await store.get_session("cricket", session.session_id, since=LONG_AGO) == session
    await store.append("cricket", session.session_id, "Wie viele? 🏏", "Elf.")
    later = await store.append("cricket", session.session_id, "And chess?", "Two.")
    assert await told(store, session) == [(1, "Wie viele? 🏏", "Elf."), (2, "And chess?", "Two.")]
    read = await store.get_session("cricket", session.session_id, since=LONG_AGO)
    assert (read.exchanges, read.updated_at, read.created_at) == (2, later.created_at, session.created_at)


async def test_sessions_do_not_see_each_other(store: Store) -> None:
    one, other = await store.create_session("cricket"), await store.create_session("cricket")
    await store.append("cricket", one.session_id, "mine", "yes")
    assert await told(store, other) == []
    assert one.session_id != other.session_id


async def test_a_session_of_another_bot_is_not_found(store: Store) -> None:
    session = await store.create_session("cricket")
    for act in (
        store.get_session("chess", session.session_id, since=LONG_AGO),
        store.append("chess", session.session_id, "a", "b"),
        store.delete_session("chess", session.session_id),
        store.get_session("cricket", "0" * 36, since=LONG_AGO),
        store.append("cricket", "0" * 36, "a", "b"),
        store.delete_session("cricket", "0" * 36),
    ):
        with pytest.raises(SessionNotFound):
            await act
    assert await told(store, session) == []


async def test_a_bot_that_is_not_there_has_no_sessions(store: Store) -> None:
    with pytest.raises(BotNotFound):
        await store.create_session("nobody")


async def test_a_bot_with_the_most_sessions_gets_no_other(store: Store) -> None:
    for _ in range(2):
        await store.create_session("cricket", most=2)
    with pytest.raises(TooManySessions, match="cricket has 2"):
        await store.create_session("cricket", most=2)
    await store.create_session("chess", most=2)


async def test_pages_of_sessions_go_from_new_to_old(store: Store) -> None:
    made = [(await store.create_session("cricket")).session_id for _ in range(5)]
    await store.create_session("chess")
    seen: list[str] = []
    after = ""
    for _ in range(5):
        page = await store.page_sessions("cricket", limit=2, after=after, since=LONG_AGO)
        seen += [session.session_id for session in page.sessions]
        if page.next_after is None:
            break
        after = page.next_after
    assert seen == made[::-1]


async def test_exchanges_are_read_by_pages_and_from_the_end(store: Store) -> None:
    session = await store.create_session("cricket")
    for number in range(1, 6):
        await store.append("cricket", session.session_id, f"m{number}", f"r{number}")
    assert [e.number for e in await store.page_exchanges(session.session_id, limit=2, after=2)] == [3, 4]
    for limit, turns in ((2, ["m4", "r4", "m5", "r5"]), (9, [f"{side}{n}" for n in range(1, 6) for side in "mr"])):
        recent = await store.recent("cricket", session.session_id, limit=limit, since=LONG_AGO)
        assert (recent.turns, recent.exchanges) == (turns, 5)
    empty = await store.create_session("cricket")
    recent = await store.recent("cricket", empty.session_id, limit=2, since=LONG_AGO)
    assert (recent.turns, recent.exchanges) == ([], 0)
    for bot_id, since in (("chess", LONG_AGO), ("cricket", START + timedelta(days=999))):
        with pytest.raises(SessionNotFound):
            await store.recent(bot_id, session.session_id, limit=2, since=since)


async def test_of_many_appends_at_once_none_is_lost_or_mixed(store: Store) -> None:
    session = await store.create_session("cricket")
    await asyncio.gather(
        *(store.append("cricket", session.session_id, f"m{number}", f"r{number}") for number in range(30))
    )
    kept = await told(store, session)
    assert [number for number, _, _ in kept] == list(range(1, 31))
    assert {(message, response) for _, message, response in kept} == {(f"m{n}", f"r{n}") for n in range(30)}


async def test_a_quiet_session_is_over_and_swept_in_portions(store: Store, clock: Clock) -> None:
    old = [await store.create_session("cricket") for _ in range(3)]
    await store.append("cricket", old[0].session_id, "a", "b")
    since = clock.now = START + timedelta(hours=1)
    fresh = await store.create_session("cricket")
    with pytest.raises(SessionNotFound):
        await store.get_session("cricket", old[0].session_id, since=since)
    page = await store.page_sessions("cricket", limit=9, since=since)
    assert [session.session_id for session in page.sessions] == [fresh.session_id]
    assert [await store.sweep_sessions(before=since, limit=2) for _ in range(3)] == [2, 1, 0]
    everything = await store.page_sessions("cricket", limit=9, since=LONG_AGO)
    assert [session.session_id for session in everything.sessions] == [fresh.session_id]
    assert await told(store, old[0]) == []


async def test_a_deleted_bot_or_session_takes_its_words_along(store: Store) -> None:
    first, second = await store.create_session("cricket"), await store.create_session("cricket")
    for session in (first, second):
        await store.append("cricket", session.session_id, "a", "b")
    await store.delete_session("cricket", first.session_id)
    assert await told(store, first) == []
    assert len(await told(store, second)) == 1
    await store.delete("cricket")
    await store.put(BotDraft(bot_id="cricket"))
    assert await told(store, second) == []
    assert not (await store.page_sessions("cricket", limit=9, since=LONG_AGO)).sessions
