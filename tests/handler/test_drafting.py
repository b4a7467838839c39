"""Drafts save steps and change no answer, greedy or sampled."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from handler.contract.generation import GenerationParameters
from handler.drafting import PromptLookup
from handler.engines import load_engine
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


@pytest.mark.parametrize("parameters", [{"do_sample": False}, {"seed": 3}, {"seed": 4, "no_repeat_ngram_size": 2}])
def test_with_drafts_and_without_the_answer_is_the_same(
    exports: dict[str, Path], parameters: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, without = (load_engine("onnx", "int8", exports["onnx-int8"], slots=1) for _ in range(2))
    without.description = replace(without.description, draft_tokens=0)  # type: ignore[misc]
    extend, drafts = engine.extend, list[int]()

    def counted(slot: int, fed: Sequence[int]) -> NDArray[np.float32]:
        drafts.append(len(fed))
        return extend(slot, fed)

    monkeypatch.setattr(engine, "extend", counted)
    for first in range(4, 16):
        # A passage that says every pair of tokens some time, so that drafts are made, and most of them wrong.
        passage = [token for other in range(4, 16) for token in (first, other)]
        answers = [run(each, [*passage, EOS], max_length=40, **parameters) for each in (engine, without)]
        assert list(answers[0].tokens) == list(answers[1].tokens)
    assert len(drafts) > 10
