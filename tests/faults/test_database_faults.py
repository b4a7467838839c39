"""The database's file is locked, full, read-only or damaged: clean errors in time, and nothing lost."""

import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.faults.conftest import Start
from tests.faults.load import Load
from tests.faults.report import Outcome, Report
from tests.gateway.required import require
from tests.gateway.serving import ROOT, GatewayProcess

TIMEOUT = 2


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The database's file."""
    return tmp_path / "godel.db"


@pytest.fixture
def database_url(file: Path) -> str:
    return f"sqlite+aiosqlite:///{file}"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two megabytes."""
    require(os.geteuid() == 0 or None, "the right to mount", "run as root")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=True)  # noqa: S607
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)  # noqa: S607


def test_while_another_process_holds_the_lock_reads_go_on_and_writes_get_503_in_time(
    start: Start, file: Path, report: Report
) -> None:
    gateway = start(GODEL_DATABASE_TIMEOUT=str(TIMEOUT))
    with Load(gateway.url, clients=6) as load:
        with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            since = time.monotonic()
            load.until(lambda: load.seen(since)["503"] >= 8, 60)
            assert httpx.get(f"{gateway.url}/v1/bots/{load.clients[0].bot}").status_code == 200
            reply = httpx.put(f"{gateway.url}/v1/bots/other", json={"knowledge": "k"}, timeout=TIMEOUT + 5)
            assert reply.status_code == 503
            assert int(reply.headers["retry-after"]) > 0
            other.rollback()
        recovered = load.until_back(time.monotonic(), failing=False)
    assert set(load.seen(since)) <= {"200", "503", "200, then problem 503"}
    assert load.slowest() < TIMEOUT + 3, "writers wait for each other beyond the time they have"
    assert "another process holds its lock" in gateway.log
    report.add("database file locked by another process", load.outcome(since, recovered))


class TestFullDisk:
    """A disk that fills up under load."""

    @pytest.fixture
    def file(self, disk: Path) -> Path:
        return disk / "godel.db"

    def test_on_a_full_disk_reads_go_on_writes_get_503_and_with_room_all_is_well(
        self, start: Start, disk: Path, report: Report
    ) -> None:
        gateway = start(GODEL_DATABASE_TIMEOUT=str(TIMEOUT))
        with Load(gateway.url) as load:
            ballast = disk / "ballast"
            with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as full:
                while full.write(bytes(4096)):
                    pass
            since = time.monotonic()
            load.until(lambda: load.seen(since)["503"] >= 8, 60)
            assert httpx.get(f"{gateway.url}/v1/bots/{load.clients[0].bot}").status_code == 200
            ballast.unlink()
            recovered = load.until_back(time.monotonic(), failing=False)
        assert set(load.seen(since)) <= {"200", "503", "200, then problem 503"}
        assert "its disk is full; make room" in gateway.log
        report.add("disk full", load.outcome(since, recovered))

    def test_a_gateway_on_a_disk_that_may_only_be_read_says_so_and_starts_when_it_may_be_written(
        self, start: Start, disk: Path, report: Report
    ) -> None:
        gateway = start()
        with Load(gateway.url, clients=2) as load:
            load.stop()
        gateway.terminate()
        gateway.wait()
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)  # noqa: S607
        line = refusal(f"sqlite+aiosqlite:///{disk}/godel.db")
        assert "look at the rights of its file and folder, and at the disk" in line
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)  # noqa: S607
        moment = time.monotonic()
        load.check(start().url)
        seen = load.outcome(moment, time.monotonic() - moment)
        report.add("disk read-only when the gateway starts", seen)


def refusal(url: str) -> str:
    """Return the one line with which a gateway refuses to start over this database."""
    ended = subprocess.run(
        [sys.executable, "-m", "gateway"],
        cwd=ROOT,
        env=os.environ
        | {"GODEL_PORT": "0", "GODEL_DATABASE_URL": url, "GODEL_TOKENIZER": "models/embedded/tokenizer.json"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 1
    (line,) = ended.stderr.strip().splitlines()
    return line


def spoil(file: Path) -> None:
    """Overwrite the database's pages that hold texts, as a failing disk may; the schema's page stays."""
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'exchanges'").fetchone()
    with file.open("r+b") as bytes_of_it:
        bytes_of_it.seek((root - 1) * size)
        bytes_of_it.write(b"\xa5" * size)


def test_a_damaged_page_gives_503_where_it_is_read_the_rest_goes_on_and_a_start_names_the_remedy(
    start: Start, file: Path, report: Report
) -> None:
    gateway = start(GODEL_DATABASE_TIMEOUT=str(TIMEOUT))
    with Load(gateway.url, clients=2) as load:
        load.stop()
    backup = file.read_bytes() if stopped(gateway) else b""
    spoil(file)
    line = refusal(f"sqlite+aiosqlite:///{file}")
    assert "damaged" in line
    assert "backup" in line

    file.write_bytes(backup)
    gateway = start(GODEL_DATABASE_TIMEOUT=str(TIMEOUT))
    spoil(file)  # while it runs
    with httpx.Client(base_url=gateway.url) as http:
        for client in load.clients:
            assert http.get(f"/v1/bots/{client.bot}").status_code == 200
            spoilt = http.get(f"/v1/bots/{client.bot}/sessions/{client.session}")
            assert spoilt.status_code == 503
            assert "its file is damaged" in spoilt.json()["detail"]
        assert http.get("/livez").status_code == 200
    assert "its file is damaged" in gateway.log
    stopped(gateway)

    moment = time.monotonic()
    for name in (file, file.with_name("godel.db-wal"), file.with_name("godel.db-shm")):
        name.unlink(missing_ok=True)
    file.write_bytes(backup)
    load.check(start().url)
    promised = load.outcome(moment, None).promised
    seen = {"200 (what is elsewhere)": 2, "503 (what the page holds)": 2}
    report.add("database page damaged", Outcome(seen=seen, promised=promised))


def stopped(gateway: GatewayProcess) -> bool:
    gateway.terminate()
    return gateway.wait() == 0
