"""PostgreSQL is restarted, crashes or hangs under load: clean errors in time, then service, and nothing lost."""

import signal
import time
from collections.abc import Iterator

import pytest

from tests.faults.conftest import Start
from tests.faults.load import Load
from tests.faults.report import Report
from tests.gateway.postgres import Postgres, running_postgres

TIMEOUT = 2


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with running_postgres() as server:
        yield server


@pytest.fixture
def database_url(postgres: Postgres) -> str:
    return postgres.new_url()


@pytest.mark.parametrize(
    ("number", "how"), [(signal.SIGINT, "restarted"), (signal.SIGQUIT, "crashed and recovered")], ids=["fast", "crash"]
)
def test_a_restart_of_postgresql_under_load_is_503_for_a_moment_and_loses_nothing(
    start: Start, postgres: Postgres, report: Report, number: signal.Signals, how: str
) -> None:
    gateway = start(GODEL_DATABASE_TIMEOUT=str(TIMEOUT))
    with Load(gateway.url) as load:
        since = time.monotonic()
        postgres.stop(number)
        load.until(lambda: load.seen(since)["503"] >= 8, 30)
        postgres.start()
        recovered = load.until_back(time.monotonic(), failing=False)
    assert set(load.seen(since)) <= {"200", "503", "200, then problem 503"}
    assert load.slowest() < 3 * TIMEOUT + 2
    report.add(f"PostgreSQL {how}", load.outcome(since, recovered))


def test_a_postgresql_that_hangs_is_503_in_time_and_loses_nothing(
    start: Start, postgres: Postgres, report: Report
) -> None:
    gateway = start(GODEL_DATABASE_TIMEOUT=str(TIMEOUT))
    with Load(gateway.url, clients=8) as load:
        since = time.monotonic()
        with postgres.frozen():
            load.until(lambda: load.seen(since)["503"] >= 8, 60)
        recovered = load.until_back(time.monotonic(), failing=False)
    assert set(load.seen(since)) <= {"200", "503", "200, then problem 503"}
    report.add("PostgreSQL hangs", load.outcome(since, recovered))
    assert load.slowest() < 20
