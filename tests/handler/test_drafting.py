"""Drafts save steps; that they change no answer of a real model stands in training/test_onnx_export.py."""

from handler.contract.generation import GenerationParameters
from handler.drafting import PromptLookup
from handler.engines.base import Engine
from handler.engines.echo_engine import EchoEngine
from handler.scheduler import Finished, Scheduler

EOS = 1


def run(engine: Engine, prompt: list[int], **parameters: object) -> Finished:
    scheduler = Scheduler(engine, prefill_tokens=512)
    scheduler.submit("only", prompt, GenerationParameters.from_mapping({"min_length": 0, **parameters}))
    while not (finished := scheduler.step()):
        pass
    return finished[0]


def test_what_followed_the_same_run_in_the_prompt_is_the_draft() -> None:
    lookup = PromptLookup([5, 6, 7, 8, 9, EOS])
    assert lookup.draft([0, 5, 6], count=3) == [7, 8, 9]
    assert lookup.draft([0, 8, 9], count=3) == [EOS]


def test_the_longest_run_wins_over_a_later_short_one() -> None:
    lookup = PromptLookup([4, 5, 6, 7, 9, 5, 6, 8, EOS])
    assert lookup.draft([0, 4, 5, 6], count=1) == [7]
    assert lookup.draft([0, 5, 6], count=1) == [8]


def test_an_answer_that_leaves_the_prompt_gets_no_draft() -> None:
    lookup = PromptLookup([5, 6, 7, EOS])
    assert lookup.draft([0], count=3) == []
    assert lookup.draft([0, 6, 5], count=3) == []


def test_a_copied_answer_takes_fewer_steps_than_it_has_tokens() -> None:
    prompt = [*range(2, 40), EOS]
    plain = run(EchoEngine(vocabulary=64, slots=1), prompt, do_sample=False)
    drafted = run(EchoEngine(vocabulary=64, slots=1, draft_tokens=4), prompt, do_sample=False)
    assert list(drafted.tokens) == list(plain.tokens) == prompt[:-1]
    assert plain.steps == len(prompt)
    assert drafted.steps < len(prompt) / 3


def test_a_draft_never_makes_an_answer_longer_than_asked_for() -> None:
    for most in range(1, 12):
        answer = run(EchoEngine(vocabulary=64, slots=1, draft_tokens=4), [*range(2, 40), EOS], max_length=most)
        assert list(answer.tokens) == list(range(2, 2 + most))
        assert answer.finish_reason == "length"


def test_only_a_request_that_is_alone_is_drafted_for() -> None:
    engine = EchoEngine(vocabulary=64, slots=2, draft_tokens=4)
    scheduler = Scheduler(engine, prefill_tokens=512)
    for key in ("one", "other"):
        scheduler.submit(key, [*range(2, 20), EOS], GenerationParameters.from_mapping({"do_sample": False}))
    while not scheduler.idle:
        scheduler.step()
    assert all(slots == [0, 1] for slots in engine.steps)
