"""Admission, deadlines, cancellation and finish reasons, over the weightless engine."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from handler.contract.generation import GenerationParameters
from handler.engines.echo_engine import EchoEngine
from handler.scheduler import STALL_TOKENS, Finished, Scheduler

VOCABULARY, EOS = 64, 1


class Clock:
    """Wall time that moves when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class CountingEngine(EchoEngine):
    """Notes how many tokens were encoded before each step."""

    def __init__(self, slots: int) -> None:
        super().__init__(vocabulary=VOCABULARY, slots=slots)
        self.encoded = 0
        self.encoded_before_step: list[int] = []

    def encode(self, slot: int, prompt_ids: Sequence[int]) -> None:
        self.encoded += len(prompt_ids)
        super().encode(slot, prompt_ids)

    def step(self, slots: Sequence[int], tokens: Sequence[int]) -> NDArray[np.float32]:
        self.encoded_before_step.append(self.encoded)
        self.encoded = 0
        return super().step(slots, tokens)


def greedy(**parameters: object) -> GenerationParameters:
    return GenerationParameters.from_mapping({"do_sample": False, "min_length": 0, **parameters})


def drain(scheduler: Scheduler) -> dict[object, Finished]:
    finished: dict[object, Finished] = {}
    for _ in range(10_000):
        if scheduler.idle:
            return finished
        finished |= {each.key: each for each in scheduler.step()}
    raise AssertionError("the scheduler never became idle")


def test_every_request_gets_its_own_answer_whatever_the_number_of_slots() -> None:
    for slots in (1, 3, 8):
        scheduler = Scheduler(EchoEngine(vocabulary=VOCABULARY, slots=slots), prefill_tokens=512)
        prompts = {number: [2 + number] * (number + 1) for number in range(20)}
        for number, prompt in prompts.items():
            scheduler.submit(number, [*prompt, EOS], greedy())
        answers = drain(scheduler)
        assert {number: list(answer.tokens) for number, answer in answers.items()} == prompts
        assert {answer.finish_reason for answer in answers.values()} == {"stop"}


def test_a_request_joins_while_others_run_and_a_finished_one_leaves_at_once() -> None:
    engine = EchoEngine(vocabulary=VOCABULARY, slots=2)
    scheduler = Scheduler(engine, prefill_tokens=512)
    scheduler.submit("long", [5] * 10 + [EOS], greedy())
    scheduler.step()
    scheduler.submit("short", [6, EOS], greedy())
    scheduler.submit("next", [7, EOS], greedy())
    answers = drain(scheduler)
    assert [len(slots) for slots in engine.steps[:6]] == [1, 2, 2, 2, 2, 1]
    assert answers["short"].batch_size == 2
    assert answers["long"].tokens == [5] * 10


def test_an_answer_that_reaches_max_length_says_so() -> None:
    scheduler = Scheduler(EchoEngine(vocabulary=VOCABULARY), prefill_tokens=512)
    scheduler.submit("a", [5] * 10 + [EOS], greedy(max_length=4))
    answer = drain(scheduler)["a"]
    assert (answer.finish_reason, answer.tokens) == ("length", [5] * 4)


def test_a_deadline_ends_a_live_request_with_what_it_has_and_frees_its_slot() -> None:
    clock = Clock()
    scheduler = Scheduler(EchoEngine(vocabulary=VOCABULARY, slots=1), prefill_tokens=512, clock=clock, timer=clock)
    scheduler.submit("late", [5] * 10 + [EOS], greedy(), deadline=1001.0)
    scheduler.submit("next", [6, EOS], greedy())
    scheduler.step()
    scheduler.step()
    clock.now = 1001.0
    answers = drain(scheduler)
    assert (answers["late"].finish_reason, answers["late"].tokens) == ("deadline", [5, 5])
    assert answers["next"].tokens == [6]


def test_a_deadline_ends_a_waiting_request_that_never_ran() -> None:
    clock = Clock()
    engine = CountingEngine(slots=1)
    scheduler = Scheduler(engine, prefill_tokens=512, clock=clock, timer=clock)
    scheduler.submit("live", [5] * 10 + [EOS], greedy())
    scheduler.submit("waiting", [6, EOS], greedy(), submitted_at=clock.now, deadline=1001.0)
    scheduler.step()
    clock.now = 1002.0
    (waiting,) = scheduler.step()
    assert (waiting.key, waiting.finish_reason, waiting.tokens, waiting.queue_ms) == ("waiting", "deadline", [], 2000.0)


def test_of_a_request_that_nobody_knows_the_time_of_no_wait_is_told() -> None:
    clock = Clock()
    scheduler = Scheduler(CountingEngine(slots=1), prefill_tokens=512, clock=clock, timer=clock)
    scheduler.submit("undated", [6, EOS], greedy())
    clock.now += 5.0
    finished: list[Finished] = []
    while not finished:
        finished += scheduler.step()
    assert finished[0].queue_ms == 0.0


def test_a_cancelled_request_frees_its_slot_and_gives_no_answer() -> None:
    scheduler = Scheduler(EchoEngine(vocabulary=VOCABULARY, slots=1), prefill_tokens=512)
    scheduler.submit("gone", [5] * 10 + [EOS], greedy())
    scheduler.submit("gone too", [5] * 10 + [EOS], greedy())
    scheduler.submit("stays", [6, EOS], greedy())
    scheduler.step()
    scheduler.cancel("gone")
    scheduler.cancel("gone too")
    scheduler.cancel("never there")
    assert drain(scheduler).keys() == {"stays"}


def test_queue_time_runs_from_submission_to_encoding() -> None:
    clock = Clock()
    scheduler = Scheduler(EchoEngine(vocabulary=VOCABULARY), prefill_tokens=512, clock=clock)
    scheduler.submit("a", [5, EOS], greedy(), submitted_at=999.5)
    assert drain(scheduler)["a"].queue_ms == 500.0


def test_admission_encodes_no_more_than_the_prefill_budget_between_two_steps() -> None:
    engine = CountingEngine(slots=8)
    scheduler = Scheduler(engine, prefill_tokens=30)
    for number in range(8):
        scheduler.submit(number, [5] * 11 + [EOS], greedy())
    drain(scheduler)
    assert max(engine.encoded_before_step) == 24
    assert sum(engine.encoded_before_step) == 8 * 12


def test_a_prompt_over_the_whole_prefill_budget_is_admitted_alone() -> None:
    engine = CountingEngine(slots=8)
    scheduler = Scheduler(engine, prefill_tokens=4)
    scheduler.submit("big", [5] * 40 + [EOS], greedy())
    scheduler.submit("small", [6, EOS], greedy())
    assert drain(scheduler).keys() == {"big", "small"}
    assert engine.encoded_before_step[:2] == [41, 2]


LONG = [5] * (STALL_TOKENS // 2 - 1)
"""A prompt that may hold up two, not three."""


def submit_long(scheduler: Scheduler, *keys: str, length: int) -> None:
    for key in keys:
        scheduler.submit(key, [*LONG, EOS], greedy(max_length=length))


def three_long_ones(clock: Clock, *, length: int) -> tuple[EchoEngine, Scheduler]:
    """Return a scheduler with a second's patience that has read three long prompts, and its engine of eight slots."""
    engine = EchoEngine(vocabulary=VOCABULARY, slots=8)
    scheduler = Scheduler(engine, prefill_tokens=512, patience=1.0, clock=clock, timer=clock)
    submit_long(scheduler, "a", "b", "c", length=length)
    for _ in range(3):
        scheduler.step()
    return engine, scheduler


def test_a_long_prompt_waits_until_few_are_live_and_then_all_that_wait_are_read() -> None:
    engine, scheduler = three_long_ones(Clock(), length=10)
    submit_long(scheduler, "d", "e", "f", length=20)
    drain(scheduler)
    live = [len(slots) for slots in engine.steps]
    assert live[:10] == [1, 2, 3, 3, 3, 3, 3, 3, 3, 3]  # d, e and f let them be, though five slots are free
    assert live[10:13] == [3, 3, 3]  # a, b and c leave one by one, d, e and f come one a step


def test_a_prompt_waits_for_others_no_longer_than_patience_lasts() -> None:
    clock = Clock()
    engine, scheduler = three_long_ones(clock, length=30)
    submit_long(scheduler, "d", length=30)
    clock.now += 0.999
    scheduler.step()
    clock.now += 0.001
    scheduler.step()
    assert [len(slots) for slots in engine.steps] == [1, 2, 3, 3, 4]


def test_a_short_prompt_is_read_at_once_and_without_patience_so_is_a_long_one() -> None:
    engine, scheduler = three_long_ones(Clock(), length=10)
    scheduler.submit("short", [6, EOS], greedy())
    scheduler.step()
    assert len(engine.steps[-1]) == 4
    hasty = Scheduler(EchoEngine(vocabulary=VOCABULARY, slots=8), prefill_tokens=512)
    submit_long(hasty, *"abcdef", length=10)
    for _ in range(6):
        hasty.step()
    assert hasty.live == 6


def test_reset_forgets_everything() -> None:
    scheduler = Scheduler(EchoEngine(vocabulary=VOCABULARY, slots=1), prefill_tokens=512)
    scheduler.submit("live", [5, EOS], greedy())
    scheduler.submit("waiting", [5, EOS], greedy())
    scheduler.step()
    scheduler.reset()
    assert scheduler.idle
    scheduler.submit("live", [6, EOS], greedy())
    assert drain(scheduler)["live"].tokens == [6]
