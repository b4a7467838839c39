"""The clock is set forward and back under load: no request hangs or fails by it, no session is forgotten."""

import asyncio
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from gateway.bots import BotDraft
from gateway.conversations import Conversations
from gateway.store.memory import MemoryStore
from handler.contract.generation import GenerationParameters
from handler.engines.echo_engine import EchoEngine
from handler.scheduler import Scheduler
from tests.faults.conftest import Start
from tests.faults.load import Load
from tests.faults.report import Report
from tests.gateway.required import require

TIMEOUT = 5
HOURS = (1, 0, -2, 0)


@pytest.fixture
def clock(tmp_path: Path) -> Path:
    """A file whose content, like `+3600`, sets the clock of a process."""
    file = tmp_path / "clock"
    file.write_text("+0")
    return file


@pytest.fixture
def faked(clock: Path) -> dict[str, str]:
    """The environment in which a process has that clock."""
    found = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    library = require(found, "libfaketime", "apt-get install faketime")
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_FORCE_MONOTONIC_FIX": "0",  # else waits of threads last by the faked clock
    }


def set_clock(file: Path, hours: float) -> None:
    """Set it at once, so that nobody reads half of it."""
    fresh = file.with_suffix(".new")
    fresh.write_text(f"{hours * 3600:+.0f}")
    os.replace(fresh, file)  # noqa: PTH105 - atomic, said plainly


def test_jumps_of_the_clock_under_load_cost_no_request_its_deadline_and_no_session_its_words(
    start: Start, clock: Path, faked: dict[str, str], report: Report
) -> None:
    gateway = start(GODEL_REQUEST_TIMEOUT=str(TIMEOUT), **faked)
    with Load(gateway.url) as load:
        since = time.monotonic()
        for hours in HOURS:
            set_clock(clock, hours)
            answered = load.seen(since)["200"]
            load.until(lambda answered=answered: load.seen(since)["200"] >= answered + 16, 30)  # type: ignore[misc]
        client = load.clients[0]
        path = f"{gateway.url}/v1/bots/{client.bot}/sessions/{client.session}"
        limited = {"knowledge": "k", "limits": {"requests_per_minute": 1}}
        httpx.put(f"{gateway.url}/v1/bots/one", json=limited).raise_for_status()
        ask = f"{gateway.url}/v1/bots/one/chat"
        assert [httpx.post(ask, json={"message": "x"}).status_code for _ in range(2)] == [200, 429]
        set_clock(clock, -1)
        assert httpx.post(ask, json={"message": "x"}).status_code == 200, "a limit lasts as long as the jump"
        set_clock(clock, 0)
        load.stop()
        set_clock(clock, 24 * 365)
        assert httpx.get(path).status_code == 404  # over, by that clock
        set_clock(clock, 0)
        assert httpx.get(path).status_code == 200
    assert set(load.seen(since)) <= {"200", "504", "200, then problem 504"}  # 504: what waited while it was set forward
    assert load.slowest() < TIMEOUT + 3
    report.add("clock set forward and back by hours", load.outcome(since, None))


@pytest.mark.parametrize("jump", [timedelta(days=400), timedelta(days=-400)])
def test_a_clock_that_was_set_forgets_no_session_until_it_has_gone_evenly_for_an_hour(
    monkeypatch: pytest.MonkeyPatch, jump: timedelta
) -> None:
    monkeypatch.setattr("gateway.conversations.SWEEP_SECONDS", 0.0)
    wall, up = datetime(2026, 1, 1, tzinfo=UTC), 1000.0

    async def lives_through(hours: float) -> bool:
        nonlocal wall, up
        store = MemoryStore(clock=lambda: wall)
        await store.put(BotDraft(bot_id="b", knowledge="", instruction="qa", parameters={}))
        session = await store.create_session("b")
        stop = asyncio.Event()
        talks = Conversations(store=store, idle=timedelta(hours=1), clock=lambda: wall, uptime=lambda: up)
        sweeping = asyncio.ensure_future(talks.sweep(stop))
        for _ in range(5):
            await asyncio.sleep(0)
        wall += jump
        for _ in range(10):
            wall, up = wall + timedelta(hours=hours / 10), up + hours * 360
            for _ in range(5):
                await asyncio.sleep(0)
        stop.set()
        await sweeping
        try:
            await store.get_session("b", session.session_id, since=datetime.min.replace(tzinfo=UTC))
        except Exception:
            return False
        return True

    assert asyncio.run(lives_through(0.9))
    if jump > timedelta(0):
        assert not asyncio.run(lives_through(2)), "a clock that goes on evenly is believed in the end"


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_in_the_worker_a_deadline_counts_from_the_request_whatever_the_clock_does(jump: float) -> None:
    wall, passed = 1000.0, 0.0
    scheduler = Scheduler(
        EchoEngine(vocabulary=64, slots=1), prefill_tokens=512, clock=lambda: wall, timer=lambda: passed
    )
    parameters = GenerationParameters(do_sample=False, min_length=0, max_length=50)
    scheduler.submit("a", [5] * 40 + [1], parameters, submitted_at=1000.0, deadline=1010.0)
    scheduler.step()
    wall += jump
    passed += 9
    assert scheduler.step() == []
    passed += 2
    (late,) = scheduler.step()
    assert late.finish_reason == "deadline"
