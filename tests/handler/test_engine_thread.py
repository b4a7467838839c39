"""The engine's thread: nothing of a request is lost, told twice or told late, whatever the engine is doing just then.

Over the weightless engine, held at a gate where a test says what happens during a step.
"""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from handler.contract.generation import GenerationParameters
from handler.engine_thread import EngineThread, EngineThreadEndedError
from handler.engines.base import EngineError
from handler.engines.echo_engine import EchoEngine
from handler.scheduler import Finished, Scheduler

ROOT = Path(__file__).parents[2]
VOCABULARY, EOS = 64, 1
LONG = 200
BOUND = 30.0
"""Seconds after which a test that hangs is failed."""


class GatedEngine(EchoEngine):
    """Steps when let; notes the thread of every call."""

    def __init__(self) -> None:
        super().__init__(vocabulary=VOCABULARY, slots=4)
        self.threads = {threading.get_ident()}
        self.gate, self.inside = threading.Event(), threading.Event()
        self.gate.set()
        self.free_steps = 0
        self.step_seconds = 0.0
        self.failure: Exception | None = None

    def hold(self, after: int = 0) -> None:
        """Have the step wait that comes after so many."""
        self.free_steps = after
        self.gate.clear()

    def step(self, slots: Sequence[int], tokens: Sequence[int]) -> NDArray[np.float32]:
        self.threads.add(threading.get_ident())
        if not self.gate.is_set() and len(self.steps) >= self.free_steps:
            self.inside.set()
            assert self.gate.wait(BOUND)
        if self.failure is not None:
            raise self.failure
        time.sleep(self.step_seconds)
        return super().step(slots, tokens)

    def release(self, slot: int) -> None:
        self.threads.add(threading.get_ident())
        super().release(slot)


class Running:
    """An engine thread over a gated engine."""

    def __init__(self, lease_seconds: float = BOUND) -> None:
        def load() -> Scheduler:
            self.engine = GatedEngine()
            return Scheduler(self.engine, prefill_tokens=512)

        self.thread = EngineThread(load, lease_seconds=lease_seconds)

    def submit(self, key: str, length: int = 3, *, followed: bool = False, deadline: float | None = None) -> None:
        parameters = GenerationParameters.from_mapping({"do_sample": False, "min_length": 0, "max_length": 256})
        ids = [2 + ord(key[0]) % 50] * length + [EOS]
        self.thread.submit(key, ids, parameters, submitted_at=time.time(), deadline=deadline, followed=followed)

    def end_of(self, key: str) -> Finished:
        """Return how `key` ended; nothing else may be told meanwhile."""
        (finished,) = self.thread.wait().finished
        assert finished.key == key
        return finished

    def stands(self) -> None:
        """Return when the engine stands in the middle of the step at which it is held."""
        until(self.engine.inside.is_set)


def until(claim: Callable[[], bool]) -> None:
    end = time.monotonic() + BOUND
    while not claim():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.001)


@pytest.fixture
def running() -> Iterator[Running]:
    running = Running()
    yield running
    running.engine.gate.set()
    running.thread.close()


def test_one_thread_loads_and_runs_the_engine_and_it_is_not_the_callers(running: Running) -> None:
    running.submit("a")
    running.end_of("a")
    assert len(running.engine.threads) == 1
    assert threading.get_ident() not in running.engine.threads


def test_what_loading_raises_is_raised_where_the_thread_was_started() -> None:
    def load() -> Scheduler:
        raise EngineError("no weights")

    with pytest.raises(EngineError, match="no weights"):
        EngineThread(load)


def test_the_engine_goes_on_between_two_waits(running: Running) -> None:
    running.submit("a", 20)
    running.submit("b", LONG)
    running.end_of("a")
    steps = len(running.engine.steps)
    until(lambda: len(running.engine.steps) >= steps + 50)
    assert list(running.end_of("b").tokens) == [2 + ord("b") % 50] * LONG


def test_a_request_submitted_during_a_step_joins_the_next(running: Running) -> None:
    running.engine.hold()
    running.submit("long", LONG)
    running.stands()
    running.submit("new", 2)
    running.engine.gate.set()
    running.end_of("new")
    assert [len(slots) for slots in running.engine.steps[:3]] == [1, 2, 2]


def test_a_request_cancelled_in_the_step_that_ends_it_is_never_told_of(running: Running) -> None:
    running.engine.hold()
    running.submit("gone", 0)
    running.submit("stays", 5)
    running.stands()
    running.thread.cancel("gone")
    running.engine.gate.set()
    running.end_of("stays")


def test_a_request_cancelled_after_it_ended_and_before_it_was_told_of_is_not_told_of(running: Running) -> None:
    running.submit("gone", 0)
    running.submit("stays", 0)
    until(lambda: len(running.thread._finished) == 2)
    running.thread.cancel("gone")
    running.end_of("stays")


def test_a_key_used_again_at_once_is_another_request(running: Running) -> None:
    running.engine.hold()
    running.submit("key", 0, followed=True)
    running.stands()
    running.thread.cancel("key")
    running.submit("key", 7)
    running.engine.gate.set()
    assert len(running.end_of("key").tokens) == 7


def test_a_cancelled_request_frees_its_slot_and_what_waited_takes_it(running: Running) -> None:
    running.engine.hold()
    for number in range(4):
        running.submit(f"live {number}", LONG)
    running.submit("waiting", 2)
    running.stands()
    running.thread.cancel("live 0")
    running.engine.gate.set()
    running.end_of("waiting")


def test_a_step_that_hangs_holds_the_wait_however_late_it_is(running: Running) -> None:
    running.engine.hold()
    running.submit("a", LONG)
    running.stands()
    waiting = threading.Event()
    returned = threading.Event()

    def wait() -> None:
        waiting.set()
        running.thread.wait(due=0.0)
        returned.set()

    waiter = threading.Thread(target=wait)
    waiter.start()
    assert waiting.wait(BOUND)
    assert not returned.wait(0.2)
    running.engine.gate.set()
    assert returned.wait(BOUND)
    waiter.join()


def test_a_wait_that_is_due_ends_with_the_next_step_and_says_how_many_live(running: Running) -> None:
    running.engine.step_seconds = 0.01
    running.submit("a", LONG)
    running.submit("b", LONG)
    news = running.thread.wait(due=0.0)
    assert (news.finished, news.tokens) == ([], {})
    assert news.live == 2


def test_a_followed_request_tells_its_tokens_and_others_do_not(running: Running) -> None:
    running.engine.step_seconds = 0.01
    running.submit("seen", LONG, followed=True)
    running.submit("unseen", LONG)
    news = running.thread.wait(parts_due=0.0)
    assert news.tokens.keys() == {"seen"}
    before = len(news.tokens["seen"])
    assert len(running.thread.wait(parts_due=0.0).tokens["seen"]) > before


def test_tokens_made_while_nobody_waited_are_told_at_once(running: Running) -> None:
    running.engine.hold(after=5)
    running.submit("seen", LONG, followed=True)
    running.stands()
    assert len(running.thread.wait(parts_due=0.0).tokens["seen"]) >= 5


def test_a_deadline_passes_without_anybody_waiting(running: Running) -> None:
    running.submit("late", LONG, deadline=time.time() - 1)
    assert running.end_of("late").finish_reason == "deadline"


def test_a_failing_engine_is_raised_and_after_a_reset_the_next_request_is_answered(running: Running) -> None:
    running.engine.failure = MemoryError("no room")
    running.submit("a", LONG)
    running.submit("waiting", LONG)
    for _ in range(2):
        with pytest.raises(MemoryError, match="no room"):
            running.thread.wait()
    running.engine.failure = None
    running.submit("doomed with them")
    running.thread.reset()
    running.submit("next", 2)
    assert running.end_of("next").batch_size == 1


def test_what_a_step_brings_that_began_before_a_reset_is_not_told(running: Running) -> None:
    running.engine.hold()
    running.submit("gone", 0)
    running.stands()
    running.thread.reset()
    running.submit("next", 2)
    running.engine.gate.set()
    running.end_of("next")


def test_a_failure_of_a_step_that_began_before_a_reset_is_nobodys(running: Running) -> None:
    running.engine.hold()
    running.engine.failure = MemoryError("no room")
    running.submit("gone", 0)
    running.stands()
    running.thread.reset()
    running.submit("next", 2)
    engine = running.engine

    def recovers(slots: Sequence[int], tokens: Sequence[int]) -> NDArray[np.float32]:
        return EchoEngine.step(engine, slots, tokens)

    engine.step = recovers  # type: ignore[method-assign]
    engine.gate.set()
    running.end_of("next")


def test_an_engine_that_cannot_even_be_reset_ends_the_thread_and_every_wait_says_so(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    running.engine.hold()
    running.submit("a", LONG)
    running.stands()
    running.engine.failure = MemoryError("no room")
    monkeypatch.setattr(running.engine, "release", lambda _: 1 / 0)
    running.engine.gate.set()
    for _ in range(2):
        with pytest.raises(EngineThreadEndedError):
            running.thread.wait()


def test_nobody_is_worked_for_when_nobody_waits_and_the_next_wait_takes_it_up_again() -> None:
    running = Running(lease_seconds=0.0)
    running.engine.step_seconds = 0.02
    running.submit("a", LONG)
    running.thread.wait(due=0.0)
    time.sleep(0.3)  # for the step that may have begun
    resting = len(running.engine.steps)
    time.sleep(0.2)
    assert len(running.engine.steps) == resting < LONG
    running.thread.cancel("a")
    running.submit("b", 2)
    running.end_of("b")
    running.thread.close()


def test_closing_ends_the_thread_in_the_middle_of_its_work(running: Running) -> None:
    running.engine.hold()
    running.submit("a", LONG)
    running.stands()
    threading.Timer(0.05, running.engine.gate.set).start()
    running.thread.close()
    assert not running.thread._thread.is_alive()
    running.thread.close()


def test_a_process_that_ends_in_the_middle_of_work_ends_at_once_and_without_a_word() -> None:
    code = """
import sys
from tests.handler.test_engine_thread import Running
running = Running()
running.submit("a", 200)
running.thread.wait(due=0.0)
sys.exit(3)
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=BOUND, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "", "")


def test_many_requests_that_come_and_leave_at_random_are_each_told_of_once_or_not_at_all(running: Running) -> None:
    random = np.random.default_rng(0)
    live: set[str] = set()
    cancelled: set[str] = set()
    told: dict[str, int] = {}
    lengths: dict[str, int] = {}
    for number in range(400):
        key = chr(65 + number % 26) + str(number)
        lengths[key] = int(random.integers(0, 12))
        running.submit(key, lengths[key], followed=bool(number % 2))
        live.add(key)
        if random.random() < 0.3:
            gone = sorted(live)[int(random.integers(len(live)))]
            running.thread.cancel(gone)
            live.remove(gone)
            cancelled.add(gone)
        if live and random.random() < 0.7:
            news = running.thread.wait(due=0.0, parts_due=0.0)
            assert {str(key) for key in news.tokens} <= live
            for finished in news.finished:
                live.remove(str(finished.key))
                told[str(finished.key)] = len(finished.tokens)
    while live:
        for finished in running.thread.wait().finished:
            live.remove(str(finished.key))
            told[str(finished.key)] = len(finished.tokens)
    assert told == {key: length for key, length in lengths.items() if key not in cancelled}
    assert cancelled
