"""TorchServe's worker is killed, runs out of memory, hangs, or meets a prompt that kills it: under load, over HTTP."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from launcher.stack import Stack
from launcher.trial import trial_stack
from tests.faults.faulty_archive import EAT, EATEN, HANG, KILL, MEMORY
from tests.faults.load import Load
from tests.faults.report import Report

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

BOUND = 30
CLEAN = {"200", "503", "200, then problem 503"}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, faulty_archive: Path) -> Iterator[Stack]:
    """TorchServe and gateway for all faults of this module: each finds them well."""
    with trial_stack(tmp_path_factory.mktemp("stack"), faulty_archive) as running:
        yield running


def worker_pid(stack: Stack) -> int:
    (worker,) = stack.torchserve.manage("GET", "/models/godel")[0]["workers"]
    return int(worker["pid"])


def ask(stack: Stack, word: str) -> httpx.Response:
    """Ask the bot `poison` something that holds `word`."""
    return httpx.post(
        f"{stack.gateway_url}/v1/bots/poison/chat", json={"message": f"Please do {word} now."}, timeout=60
    )


@pytest.fixture
def poison(stack: Stack) -> None:
    """A bot to be asked what kills the worker."""
    httpx.put(f"{stack.gateway_url}/v1/bots/poison", json={"knowledge": "k"}).raise_for_status()


@pytest.mark.parametrize(
    ("how", "fault"),
    [(signal.SIGKILL, "worker killed, as by the kernel without memory"), (signal.SIGSTOP, "worker hangs")],
)
def test_a_worker_that_dies_or_hangs_under_load_is_replaced_within_30_s(
    stack: Stack, report: Report, how: signal.Signals, fault: str
) -> None:
    with Load(stack.gateway_url) as load:
        old = worker_pid(stack)
        since = time.monotonic()
        os.kill(old, how)
        recovered = load.until_back(since, seconds=60)
    assert worker_pid(stack) != old
    assert not psutil.pid_exists(old)
    assert recovered < BOUND
    assert set(load.seen(since)) <= CLEAN
    report.add(fault, load.outcome(since, recovered))


@pytest.mark.usefixtures("poison")
def test_a_request_for_which_there_is_no_memory_fails_alone_or_with_its_neighbours_and_the_worker_lives(
    stack: Stack, report: Report
) -> None:
    with Load(stack.gateway_url) as load:
        old = worker_pid(stack)
        since = time.monotonic()
        reply = ask(stack, MEMORY)
        recovered = load.until_back(since, failing=False)
    assert reply.status_code == 503
    assert worker_pid(stack) == old
    assert set(load.seen(since)) <= CLEAN
    report.add("worker's engine out of memory", load.outcome(since, recovered))


@pytest.fixture
def confine() -> Iterator[Callable[[int, int], None]]:
    """Let a process take so many bytes more than it has, or the kernel kills it."""
    found = [
        (root / f"godel-test-{os.getpid()}", limit)
        for root, limit in (
            (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),  # version 1, then 2, of control groups
            (Path("/sys/fs/cgroup"), "memory.max"),
        )
        if os.access(root, os.W_OK) and (root / "cgroup.procs").exists()
    ]
    if os.geteuid() or not found:
        pytest.skip("control groups that bound memory need root, and a kernel that has them")
    group, limit = found[0]
    group.mkdir()

    def confined(pid: int, more: int) -> None:
        # What it has already stays on the account of the group that it had.
        (group / limit).write_text(str(more))
        (group / "cgroup.procs").write_text(str(pid))

    yield confined
    until(lambda: not (group / "cgroup.procs").read_text().split())
    group.rmdir()


@pytest.mark.usefixtures("poison")
def test_a_worker_that_the_kernel_kills_for_want_of_memory_is_replaced_within_30_s(
    stack: Stack, report: Report, confine: Callable[[int, int], None]
) -> None:
    with Load(stack.gateway_url) as load:
        old = worker_pid(stack)
        confine(old, EATEN // 2)
        since = time.monotonic()
        assert ask(stack, EAT).status_code == 503
        recovered = load.until_back(since, seconds=60)
    until(lambda: not psutil.pid_exists(old))
    assert ask(stack, EAT).status_code == 200, "with the memory it asks for it is a prompt like others"
    assert recovered < BOUND
    assert set(load.seen(since)) <= CLEAN
    report.add("worker out of memory, killed by the kernel", load.outcome(since, recovered))


@pytest.mark.usefixtures("poison")
def test_a_prompt_that_kills_the_worker_may_do_so_twice_and_everybody_else_is_served(
    stack: Stack, report: Report
) -> None:
    with Load(stack.gateway_url) as load:
        since = time.monotonic()
        statuses, workers = [], set()
        for _ in range(6):
            until(stack.torchserve.worker_ready)
            workers.add(worker_pid(stack))
            statuses.append(ask(stack, KILL).status_code)
        assert statuses == [503, 503, 422, 422, 422, 422]
        recovered = load.until_back(since)
        until(stack.torchserve.worker_ready)
        assert len(workers | {worker_pid(stack)}) == 3
    assert ask(stack, "nothing of the kind").status_code == 200
    assert set(load.seen(since)) <= CLEAN
    report.add("a prompt that kills the worker, asked 6 times", load.outcome(since, recovered))


@pytest.mark.usefixtures("poison")
def test_a_prompt_that_hangs_the_engine_ends_by_its_time_out_and_the_service_is_back(
    stack: Stack, report: Report
) -> None:
    replies: list[httpx.Response] = []
    asker = threading.Thread(target=lambda: replies.append(ask(stack, HANG)))
    with Load(stack.gateway_url) as load:
        since = time.monotonic()
        asker.start()
        recovered = load.until_back(since, seconds=60)
        asker.join()
    assert replies[0].status_code in (503, 504)
    assert recovered < BOUND
    assert set(load.seen(since)) <= CLEAN
    report.add("a prompt that hangs the engine", load.outcome(since, recovered))


def until(claim: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.05)
