"""Backups: one moment of a database in use, put back whole; PostgreSQL by its own tools as docs/operate.md shows."""

import asyncio
import contextlib
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url, text

from gateway.backup import back_up, restore
from gateway.bots import BotDraft
from gateway.command_line import main
from gateway.errors import Misconfigured, StoreUnavailable
from gateway.store.database import migrate, open_database
from gateway.store.sql import SqlStore
from tests.gateway.postgres import Postgres
from tests.gateway.serving import ROOT

OPERATE = ROOT / "docs" / "operate.md"


def draft(bot_id: str, knowledge: str = "It opens at nine.") -> BotDraft:
    return BotDraft(bot_id=bot_id, knowledge=knowledge, instruction="qa", parameters={"top_p": 0.5})


def written(url: str, *drafts: BotDraft) -> None:
    async def write() -> None:
        async with SqlStore.open(url) as store:
            for each in drafts:
                await store.put(each)

    asyncio.run(write())


def held(url: str) -> dict[str, str]:
    """Return the knowledge of each bot in the database."""

    async def read() -> dict[str, str]:
        async with SqlStore.open(url) as store:
            bots = [await store.get(entry.bot_id) for entry in (await store.page(limit=1000)).bots]
            return {bot.bot_id: bot.knowledge for bot in bots}

    return asyncio.run(read())


def of_old(url: str, revision: str) -> None:
    """Make the database of an earlier release that holds the cafe."""
    insert = text(
        "INSERT INTO bots (bot_id, knowledge, parameters, created_at, updated_at, revision)"
        " VALUES ('cafe', 'It opens at nine.', '{}', CURRENT_TIMESTAMP, CURRENT_TIMESTAMP, 1)"
    )

    async def make() -> None:
        database = open_database(url)
        await migrate(database, revision)
        await database.write(lambda connection: connection.execute(insert))
        await database.dispose()

    asyncio.run(make())


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/live/bots.db"


@pytest.fixture
def writer(tmp_path: Path, url: str) -> Iterator[list[int]]:
    """Another connection that adds exchanges, in pairs, all the time; the numbers it has committed."""
    written(url, draft("cafe"))
    committed: list[int] = []
    stop = threading.Event()

    def write() -> None:
        connection = sqlite3.connect(tmp_path / "live" / "bots.db", timeout=10)
        connection.execute("CREATE TABLE pairs (number INTEGER)")
        while not stop.is_set():
            with connection:
                connection.executemany("INSERT INTO pairs VALUES (?)", [(len(committed),)] * 2)
            committed.append(len(committed))
        connection.close()

    thread = threading.Thread(target=write)
    thread.start()
    while len(committed) < 50:
        assert thread.is_alive()
    yield committed
    stop.set()
    thread.join()


def test_a_backup_in_use_holds_all_that_was_acknowledged_before_and_no_half_of_what_came_during(
    tmp_path: Path, url: str, writer: list[int]
) -> None:
    before = len(writer)
    size = back_up(url, tmp_path / "copies" / "bots.db")
    assert [path.name for path in (tmp_path / "copies").iterdir()] == ["bots.db"]
    assert size == (tmp_path / "copies" / "bots.db").stat().st_size
    with sqlite3.connect(tmp_path / "copies" / "bots.db") as copy:
        counts = dict(copy.execute("SELECT number, count(*) FROM pairs GROUP BY number"))
    assert set(range(before)) <= set(counts)
    assert set(counts.values()) == {2}
    assert held(f"sqlite:///{tmp_path}/copies/bots.db") == {"cafe": "It opens at nine."}


def test_what_was_lost_comes_back_and_what_came_after_is_gone(tmp_path: Path, url: str) -> None:
    written(url, draft("cafe"), draft("shop", "It closes at six."))
    before = held(url)
    back_up(url, tmp_path / "copy.db")
    written(url, draft("cafe", "Nothing any more."), draft("late"))
    restore(url, tmp_path / "copy.db")
    assert held(url) == before
    shutil.rmtree(tmp_path / "live")
    restore(url, tmp_path / "copy.db")
    assert held(url) == before


@pytest.mark.parametrize("revision", ["0001", "0002", "0003", "0004"])
def test_a_backup_of_an_earlier_release_is_brought_up_to_date_under_a_gateway_that_runs(
    tmp_path: Path, url: str, revision: str
) -> None:
    of_old(f"sqlite:///{tmp_path}/old.db", revision)

    async def go_on() -> list[int]:
        async with SqlStore.open(url) as store:
            await store.put(draft("late"))
            await asyncio.to_thread(restore, url, tmp_path / "old.db")
            session = await store.create_session("cafe")
            return [(await store.append("cafe", session.session_id, "m", "r")).number for _ in range(3)]

    assert asyncio.run(go_on()) == [1, 2, 3]
    assert held(url) == {"cafe": "It opens at nine."}


def test_a_backup_of_a_newer_release_is_refused_and_changes_nothing(tmp_path: Path, url: str) -> None:
    written(url, draft("cafe"))
    back_up(url, tmp_path / "copy.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        copy.execute("UPDATE alembic_version SET version_num = '9999'")
        copy.commit()
    written(url, draft("late"))
    with pytest.raises(Misconfigured, match=r"made by a newer release .*9999"):
        restore(url, tmp_path / "copy.db")
    assert set(held(url)) == {"cafe", "late"}
    assert [path.name for path in (tmp_path / "live").iterdir() if "restored" in path.name] == []


def test_the_commands_do_it(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GODEL_DATABASE_URL", url)
    written(url, draft("cafe"))
    assert main(["backup", str(tmp_path / "copy.db")]) == 0
    written(url, draft("late"))
    assert main(["restore", str(tmp_path / "copy.db")]) == 0
    assert set(held(url)) == {"cafe"}
    assert main(["backup", str(tmp_path / "copy.db")]) == 1
    shown = capsys.readouterr()
    assert re.search(r"wrote .*copy\.db, \d+ bytes\nrestored \d+ bytes from ", shown.out)
    assert "a backup overwrites nothing" in shown.err


@pytest.mark.parametrize("content", [b"no database at all" * 100, b""])
def test_what_is_no_backup_is_refused_and_changes_nothing(tmp_path: Path, url: str, content: bytes) -> None:
    written(url, draft("cafe"))
    (tmp_path / "copy.db").write_bytes(content)
    with pytest.raises(StoreUnavailable, match=r"copy\.db (is no SQLite|holds no bots)"):
        restore(url, tmp_path / "copy.db")
    assert set(held(url)) == {"cafe"}


def test_a_backup_with_a_broken_page_is_refused(tmp_path: Path, url: str) -> None:
    written(url, *(draft(f"bot{number}", "It opens at nine. " * 400) for number in range(20)))
    back_up(url, tmp_path / "copy.db")
    data = bytearray((tmp_path / "copy.db").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 4096] = os.urandom(4096)
    (tmp_path / "copy.db").write_bytes(data)
    with pytest.raises(StoreUnavailable, match="broken"):
        restore(url, tmp_path / "copy.db")
    assert len(held(url)) == 20


def test_another_database_is_pointed_to_its_own_tools(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="pg_dump"):
        back_up("postgresql+psycopg://bots@db/bots", tmp_path / "copy.db")
    with pytest.raises(StoreUnavailable, match="is no file"):
        back_up(f"sqlite:///{tmp_path}/none.db", tmp_path / "copy.db")


def postgres_commands() -> list[str]:
    """Return the lines of docs/operate.md that copy a PostgreSQL database and put it back."""
    return re.findall(r"^(?:pg_dump|pg_restore|psql) .*$", OPERATE.read_text(encoding="utf-8"), re.MULTILINE)


def test_the_documented_commands_copy_a_postgresql_database_and_put_it_back(tmp_path: Path, postgres: Postgres) -> None:
    url = postgres.new_url()
    written(url, draft("cafe"), draft("shop", "It closes at six."))
    before = held(url)
    parsed = make_url(url)
    environment = os.environ | {
        "DATABASE": f"postgresql://postgres@/{parsed.database}?host={parsed.query['host']}",
    }
    dump, *put_back = postgres_commands()
    subprocess.run(["bash", "-c", dump], env=environment, cwd=tmp_path, check=True)  # noqa: S607
    written(url, draft("cafe", "Nothing any more."), draft("late"))
    for _ in range(2):
        subprocess.run(["bash", "-ec", "\n".join(put_back)], env=environment, cwd=tmp_path, check=True)  # noqa: S607
        assert held(url) == before
    of_old(old := postgres.new_url(), "0002")
    environment["DATABASE"] = environment["DATABASE"].replace(str(parsed.database), str(make_url(old).database))
    subprocess.run(["bash", "-c", dump], env=environment, cwd=tmp_path, check=True)  # noqa: S607
    assert held(old) == {"cafe": "It opens at nine."}  # by this release, whose tables are in it now
    subprocess.run(["bash", "-ec", "\n".join(put_back)], env=environment, cwd=tmp_path, check=True)  # noqa: S607
    assert held(old) == {"cafe": "It opens at nine."}


def test_the_module_has_the_commands_too(tmp_path: Path, url: str) -> None:
    written(url, draft("cafe"))
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "backup", str(tmp_path / "copy.db")],
        env=os.environ | {"GODEL_DATABASE_URL": url},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
