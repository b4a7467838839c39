"""`make serve` when its processes are killed, hang, or are told to end, all of it under load."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.faults.load import Load
from tests.faults.report import Report
from tests.gateway.serving import GatewayProcess
from tests.launcher.served import Served

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

BOUND = 30
"""Seconds within which the service is back without a hand, after any single fault."""

GRACE = 10


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, faulty_archive: Path) -> Iterator[Served]:
    """One stack for all faults of this module: each finds it well."""
    served = Served(
        tmp_path_factory.mktemp("served"),
        faulty_archive,
        {"GODEL_SHUTDOWN_GRACE": str(GRACE), "GODEL_DATABASE_TIMEOUT": "2"},
    )
    yield served
    served.close()


@pytest.mark.parametrize(
    ("victim", "how", "fault"),
    [
        ("ModelServer", signal.SIGKILL, "TorchServe's JVM killed"),
        ("-m gateway", signal.SIGKILL, "gateway killed"),
        ("ModelServer", signal.SIGSTOP, "TorchServe's JVM hangs"),
        ("-m gateway", signal.SIGSTOP, "gateway hangs"),
    ],
)
def test_a_process_that_dies_or_hangs_under_load_is_replaced_within_30_s_and_leaves_no_orphan(
    served: Served, report: Report, victim: str, how: signal.Signals, fault: str
) -> None:
    with Load(served.url, timeout=40) as load:
        process = served.member(victim)
        old = [process, *process.children(recursive=True)]
        since = time.monotonic()
        process.send_signal(how)
        recovered = load.until_back(since, seconds=60)
    assert recovered < BOUND
    allowed = {"200", "503", "504", "200, then problem 503", "200, then problem 504"}
    assert set(load.seen(since)) <= allowed | {"connection cut", "connection closed", "connection refused"}
    _, alive = psutil.wait_procs(old, timeout=10)
    assert alive == []
    report.add(f"{fault}, under `make serve`", load.outcome(since, recovered))


def test_sigterm_under_load_finishes_or_refuses_cleanly_and_ends_within_the_grace(
    served: Served, report: Report
) -> None:
    """The last of this module: nothing is served after it."""
    with Load(served.url, clients=8, timeout=40) as load:
        load.checks = False
        family = served.family()
        since = time.monotonic()
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(GRACE + 20) == 0
        seconds = time.monotonic() - since
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
    allowed = {"200", "503", "200, then problem 503", "connection closed", "connection refused"}
    assert set(load.seen(since)) <= allowed
    log = "\n".join(served.lines)
    for unanswered in (number for client in load.clients for number in client.unanswered):
        assert unanswered not in log, "an accepted request got no answer"
    reader = GatewayProcess(
        {"GODEL_DATABASE_URL": served.database_url, "GODEL_TOKENIZER": "models/embedded/tokenizer.json"}
    )
    try:
        load.check(reader.url)
    finally:
        reader.close()
    report.add("SIGTERM; `make serve` ended", load.outcome(since, seconds))
