"""Every store keeps bots alike; the SQL one also when many write at once."""

import asyncio
import multiprocessing
import multiprocessing.synchronize
import sqlite3
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import inspect, text
from sqlalchemy.engine import Connection

from gateway.bots import BotDraft, BotEntry
from gateway.errors import BotChanged, BotExists, BotNotFound, Misconfigured, StoreUnavailable
from gateway.store.database import migrate, open_database
from gateway.store.memory import MemoryStore
from gateway.store.port import Store
from gateway.store.schema import metadata
from gateway.store.sql import SqlStore
from tests.gateway.postgres import Postgres

pytestmark = pytest.mark.anyio

DRAFT = BotDraft(
    bot_id="cricket",
    knowledge="Zwölf 🏏\nline",
    instruction="grounded",
    parameters={"top_p": 0.25},
    name="Cricket, für alle",
    limits={"requests_per_minute": 7},
)

RELEASED = {
    "bot_id": "old",
    "knowledge": "kept",
    "instruction": None,
    "parameters": '{"top_p": 0.5}',
    "created_at": datetime(2026, 1, 2, 3, tzinfo=UTC),
    "updated_at": datetime(2026, 1, 2, 4, tzinfo=UTC),
    "revision": 3,
}
"""A bot as the first release stored it."""


def url_in(folder: Path) -> str:
    return f"sqlite:///{folder}/below/bots.db"


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database."""
    if request.param == "sqlite":
        return url_in(tmp_path)
    postgres: Postgres = request.getfixturevalue("postgres")
    return postgres.new_url()


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    address = url_in(tmp_path) if request.param == "sqlite" else request.getfixturevalue("postgres").new_url()
    async with SqlStore.open(address) as opened:
        yield opened


async def test_what_is_put_is_got(store: Store) -> None:
    put = await store.put(DRAFT)
    got = await store.get("cricket")
    assert got == put
    assert (got.bot_id, got.knowledge, got.instruction) == (DRAFT.bot_id, DRAFT.knowledge, DRAFT.instruction)
    assert got.parameters == DRAFT.parameters
    assert (got.name, got.limits) == (DRAFT.name, DRAFT.limits)
    assert got.revision == 1


async def test_times_are_in_utc_and_about_now(store: Store) -> None:
    bot = await store.put(DRAFT)
    assert bot.created_at == bot.updated_at
    assert bot.created_at.tzinfo is not None
    assert abs(datetime.now(UTC) - bot.created_at) < timedelta(minutes=1)


async def test_putting_again_replaces_all_but_the_creation_time(store: Store) -> None:
    first = await store.put(DRAFT)
    second = await store.put(BotDraft(bot_id="cricket"))
    assert (second.knowledge, second.instruction, second.parameters) == ("", None, {})
    assert (second.name, second.limits) == ("", {})
    assert (second.created_at, second.revision) == (first.created_at, 2)
    assert second.updated_at >= first.updated_at


async def test_teaching_replaces_knowledge_alone_and_creates(store: Store) -> None:
    await store.put(DRAFT)
    taught = await store.teach(BotDraft(bot_id="cricket", knowledge="new"))
    assert (taught.knowledge, taught.instruction, taught.parameters) == ("new", "grounded", {"top_p": 0.25})
    assert (taught.name, taught.limits) == (DRAFT.name, DRAFT.limits)
    assert taught.revision == 2
    assert (await store.teach(BotDraft(bot_id="other", knowledge="k"))).revision == 1


async def test_an_unknown_bot_is_not_found(store: Store) -> None:
    for act in (store.get, store.delete):
        with pytest.raises(BotNotFound, match="nobody"):
            await act("nobody")


async def test_a_deleted_bot_is_gone_and_starts_anew(store: Store) -> None:
    await store.put(DRAFT)
    await store.put(DRAFT)
    await store.delete("cricket")
    with pytest.raises(BotNotFound):
        await store.get("cricket")
    assert (await store.put(DRAFT)).revision == 1


async def test_creating_never_replaces(store: Store) -> None:
    created = await store.create(DRAFT)
    assert created == await store.get("cricket")
    with pytest.raises(BotExists, match="cricket"):
        await store.create(BotDraft(bot_id="cricket"))
    assert await store.get("cricket") == created


async def test_of_two_editors_who_saw_the_same_bot_the_second_is_told(store: Store) -> None:
    seen = await store.create(DRAFT)
    changed = await store.replace(seen, BotDraft(bot_id="cricket", knowledge="first editor"))
    assert (changed.revision, changed.created_at, changed.name) == (2, seen.created_at, "")
    with pytest.raises(BotChanged):
        await store.replace(seen, BotDraft(bot_id="cricket", knowledge="second editor"))
    with pytest.raises(BotChanged):
        await store.delete("cricket", seen=seen)
    assert (await store.get("cricket")).knowledge == "first editor"
    await store.delete("cricket", seen=changed)
    anew = await store.create(DRAFT)
    assert anew.revision == seen.revision
    with pytest.raises(BotChanged):
        await store.replace(seen, DRAFT)


async def test_of_many_editors_at_once_one_wins(store: Store) -> None:
    seen = await store.create(DRAFT)
    edits = [store.replace(seen, BotDraft(bot_id="cricket", knowledge=str(number))) for number in range(10)]
    outcomes = await asyncio.gather(*edits, return_exceptions=True)
    assert sum(isinstance(outcome, BotChanged) for outcome in outcomes) == 9
    assert (await store.get("cricket")).revision == 2


async def test_pages_follow_each_other_without_gap_or_repetition(store: Store) -> None:
    names = sorted(["B", "a", "a.b", "a_b", "Z9", "10", "9"])
    for name in names:
        await store.put(BotDraft(bot_id=name))
    seen, after = [], ""
    for _ in names:
        page = await store.page(limit=2, after=after)
        seen += [bot.bot_id for bot in page.bots]
        if page.next_after is None:
            break
        after = page.next_after
    assert seen == names


async def test_a_page_has_all_of_a_bot_but_what_it_knows(store: Store) -> None:
    bot = await store.put(DRAFT)
    assert (await store.page(limit=5)).bots == [
        BotEntry(
            bot_id="cricket",
            name=bot.name,
            instruction="grounded",
            knowledge_characters=len(DRAFT.knowledge),
            created_at=bot.created_at,
            updated_at=bot.updated_at,
        )
    ]


async def test_an_empty_store_has_one_empty_page(store: Store) -> None:
    page = await store.page(limit=5)
    assert (list(page.bots), page.next_after) == ([], None)


async def test_many_are_taught_all_or_none(store: Store) -> None:
    await store.put(DRAFT)
    drafts = [BotDraft(bot_id=name, knowledge="k") for name in ("new", "cricket", "newer")]
    with pytest.raises(BotExists, match="cricket"):
        await store.teach_all(drafts, replace=False)
    assert [bot.bot_id for bot in (await store.page(limit=9)).bots] == ["cricket"]
    assert (await store.get("cricket")).knowledge == DRAFT.knowledge

    taught = await store.teach_all(drafts, replace=True)
    assert [(bot.bot_id, bot.revision) for bot in taught] == [("new", 1), ("cricket", 2), ("newer", 1)]
    assert (await store.get("cricket")).instruction == "grounded"


async def test_of_many_writes_at_once_none_is_lost(store: Store) -> None:
    await asyncio.gather(*(store.teach(BotDraft(bot_id="one", knowledge=str(number))) for number in range(50)))
    await asyncio.gather(*(store.put(BotDraft(bot_id=f"bot-{number}")) for number in range(50)))
    assert (await store.get("one")).revision == 50
    assert len((await store.page(limit=200)).bots) == 51


def run_in_process(url: str, start: "multiprocessing.synchronize.Barrier", writes: int) -> None:
    async def work() -> None:
        start.wait(timeout=20)  # both open the database, which does not exist yet, at the same moment
        async with SqlStore.open(url) as store:
            for number in range(writes):
                await store.teach(BotDraft(bot_id="shared", knowledge=f"{number}"))

    asyncio.run(work())


async def test_two_processes_that_start_and_write_at_once_lose_nothing(url: str) -> None:
    processes, writes = 3, 40
    context = multiprocessing.get_context("forkserver")
    start = context.Barrier(processes)
    workers = [context.Process(target=run_in_process, args=(url, start, writes)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    for worker in workers:
        await asyncio.to_thread(worker.join, 60)
    assert [worker.exitcode for worker in workers] == [0] * processes
    async with SqlStore.open(url) as store:
        assert (await store.get("shared")).revision == processes * writes


async def test_bots_outlive_the_store(url: str) -> None:
    async with SqlStore.open(url) as store:
        await store.put(DRAFT)
    async with SqlStore.open(url) as store:
        assert (await store.get("cricket")).knowledge == DRAFT.knowledge


async def test_sqlite_keeps_a_write_ahead_log_and_waits_for_locks(tmp_path: Path) -> None:
    def pragmas(connection: Connection) -> dict[str, str | int]:
        names = ("journal_mode", "busy_timeout", "foreign_keys", "synchronous")
        return {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in names}

    database = open_database(url_in(tmp_path))
    assert await database.write(pragmas) == {
        "journal_mode": "wal",
        "busy_timeout": 5_000,
        "foreign_keys": 1,
        "synchronous": 2,  # what was answered for is on the disk
    }
    await database.dispose()


async def test_while_another_process_holds_all_of_sqlite_others_go_on_and_a_reader_waits(tmp_path: Path) -> None:
    async with SqlStore.open(url_in(tmp_path)) as store:
        await store.put(DRAFT)
    database = open_database(url_in(tmp_path))
    other = sqlite3.connect(tmp_path / "below" / "bots.db", isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("PRAGMA journal_mode = DELETE")
    other.execute("BEGIN EXCLUSIVE")
    reading = asyncio.ensure_future(SqlStore(database).get("cricket"))
    for _ in range(20):
        await asyncio.sleep(0.01)  # the event loop runs meanwhile
    assert not reading.done()
    other.close()
    assert (await reading).knowledge == DRAFT.knowledge
    await database.dispose()


async def test_what_one_store_has_written_another_reads_at_once(url: str) -> None:
    async with SqlStore.open(url) as one, SqlStore.open(url) as other:
        for number in range(20):
            await one.teach(BotDraft(bot_id="shared", knowledge=f"{number}"))
            assert (await other.get("shared")).knowledge == f"{number}"


async def test_work_that_nobody_waits_for_is_kept_whole_or_not_at_all(store: Store) -> None:
    await store.put(DRAFT)
    session = await store.create_session("cricket")
    appending = [
        asyncio.ensure_future(store.append("cricket", session.session_id, f"m{n}", f"r{n}")) for n in range(20)
    ]
    await asyncio.sleep(0)
    for one in appending:
        one.cancel()
    await asyncio.gather(*appending, return_exceptions=True)
    await store.append("cricket", session.session_id, "last", "last")
    kept = await store.page_exchanges(session.session_id, limit=100)
    assert [exchange.number for exchange in kept] == list(range(1, len(kept) + 1))
    assert all(exchange.response == exchange.message.replace("m", "r") for exchange in kept)
    found = await store.get_session("cricket", session.session_id, since=datetime.min.replace(tzinfo=UTC))
    assert found.exchanges == len(kept)


async def test_the_migrations_make_the_schema_that_the_code_expects(url: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    database = open_database(url)
    await migrate(database)
    await migrate(database)  # a second time there is nothing to do
    differences = await database.read(
        lambda connection: compare_metadata(MigrationContext.configure(connection), metadata)
    )
    tables = await database.read(lambda connection: inspect(connection).get_table_names())
    await database.dispose()
    assert differences == []
    assert set(tables) == {"bots", "sessions", "exchanges", "keys", "model_routes", "alembic_version"}


async def test_the_spelling_of_earlier_releases_is_the_same_file(tmp_path: Path) -> None:
    async with SqlStore.open(url_in(tmp_path)) as store:
        await store.put(DRAFT)
    async with SqlStore.open(url_in(tmp_path).replace("sqlite:", "sqlite+aiosqlite:")) as store:
        assert (await store.get("cricket")).knowledge == DRAFT.knowledge


async def test_a_file_that_is_no_database_is_named_with_the_reason(tmp_path: Path) -> None:
    file = tmp_path / "bots.db"
    file.write_bytes(b"this is no database" * 100)
    with pytest.raises(StoreUnavailable, match=r"bots\.db cannot be opened: file is not a database"):
        async with SqlStore.open(f"sqlite:///{file}"):
            pass


async def test_a_locked_database_is_unavailable(tmp_path: Path) -> None:
    database = open_database(url_in(tmp_path), timeout=0.04)
    await migrate(database)
    other = sqlite3.connect(tmp_path / "below" / "bots.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    store = SqlStore(database)
    with pytest.raises(StoreUnavailable):
        await store.put(DRAFT)
    other.rollback()
    await store.put(DRAFT)
    session = await store.create_session("cricket")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable):
        await store.append("cricket", session.session_id, "lost", "and said so")
    other.close()
    assert (await store.append("cricket", session.session_id, "m", "r")).number == 1
    await database.dispose()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "nosuchdb://x/y",
        "postgresql+nosuchdriver://x/y",
        "mysql://x/y",
        "sqlite://",
        "sqlite:///:memory:",
    ],
)
async def test_an_address_that_names_no_database_is_a_misconfiguration(url: str) -> None:
    with pytest.raises(Misconfigured, match="database_url"):
        async with SqlStore.open(url):
            pass


async def test_a_database_of_the_first_release_keeps_its_bots(url: str) -> None:
    database = open_database(url)
    await migrate(database, "0001")
    old = text(
        "INSERT INTO bots (bot_id, knowledge, instruction, parameters, created_at, updated_at, revision)"
        " VALUES (:bot_id, :knowledge, :instruction, :parameters, :created_at, :updated_at, :revision)"
    )
    await database.write(lambda connection: connection.execute(old, RELEASED))
    await database.dispose()
    async with SqlStore.open(url) as store:
        bot = await store.get("old")
        assert (bot.knowledge, bot.parameters, bot.revision) == ("kept", {"top_p": 0.5}, 3)
        assert (bot.name, bot.limits) == ("", {})
        assert (await store.create_session("old")).exchanges == 0


async def test_a_gateway_of_the_release_before_the_counting_trigger_may_go_on_beside_it(url: str) -> None:
    async with SqlStore.open(url) as store:
        await store.put(DRAFT)
        session = await store.create_session("cricket")
        await store.append("cricket", session.session_id, "new", "new")
        database = open_database(url)
        counts = text("UPDATE sessions SET exchanges = exchanges + 1 WHERE session_id = :session")
        appends = text(
            "INSERT INTO exchanges (session_id, number, message, response, created_at)"
            " VALUES (:session, 2, 'old', 'old', CURRENT_TIMESTAMP)"
        )
        said = {"session": session.session_id}
        await database.write(lambda connection: (connection.execute(counts, said), connection.execute(appends, said)))
        await database.dispose()
        assert (await store.append("cricket", session.session_id, "new", "new")).number == 3
        kept = await store.get_session("cricket", session.session_id, since=datetime.min.replace(tzinfo=UTC))
        assert kept.exchanges == 3


async def test_exchanges_that_nobody_counted_are_counted_when_the_trigger_comes(url: str) -> None:
    database = open_database(url)
    await migrate(database, "0004")
    store = SqlStore(database)
    await store.put(DRAFT)
    counted, quiet = [await store.create_session("cricket") for _ in range(2)]
    assert (await store.append("cricket", counted.session_id, "m", "r")).number == 1  # without the trigger
    await migrate(database)
    assert (await store.append("cricket", counted.session_id, "m", "r")).number == 2
    assert (await store.append("cricket", quiet.session_id, "m", "r")).number == 1
    await database.dispose()


async def test_tables_of_a_newer_release_are_named_as_such(url: str) -> None:
    database = open_database(url)
    await migrate(database)
    newer = text("UPDATE alembic_version SET version_num = '9999'")
    await database.write(lambda connection: connection.execute(newer))
    await database.dispose()
    with pytest.raises(Misconfigured, match="made by a newer release"):
        async with SqlStore.open(url):
            pass


async def test_a_migration_that_fails_leaves_the_database_as_it_was(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    database = open_database(url)
    await migrate(database, "0001")
    with monkeypatch.context() as patch:
        patch.setattr("alembic.op.create_index", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await migrate(database)
    columns = await database.read(lambda connection: {item["name"] for item in inspect(connection).get_columns("bots")})
    tables = await database.read(lambda connection: inspect(connection).get_table_names())
    assert "name" not in columns
    assert "sessions" not in tables
    await migrate(database)
    await database.dispose()


async def test_a_restart_of_postgresql_is_survived(postgres: Postgres) -> None:
    async with SqlStore.open(postgres.new_url()) as store:
        await asyncio.gather(*(store.put(DRAFT) for _ in range(5)))
        postgres.cut_connections()
        assert (await store.get("cricket")).revision == 5
