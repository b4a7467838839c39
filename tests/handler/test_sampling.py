"""The sampler against `transformers`' own processors, and what each parameter means."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers.generation.logits_process import (
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from handler.contract.generation import GenerationParameters
from handler.sampling import NumericalError, RowState, next_tokens

VOCABULARY, EOS, DRAWS = 50, 1, 4000


def row(**parameters: object) -> RowState:
    return RowState(GenerationParameters.from_mapping({"min_length": 0, **parameters}), 0)


def random_logits(rows: int = 1, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 3, (rows, VOCABULARY)).astype(np.float32)


def frequencies(logits: NDArray[np.float32], **parameters: object) -> NDArray[np.float64]:
    state = row(seed=1, **parameters)
    counts = np.zeros(VOCABULARY)
    for _ in range(DRAWS):
        counts[next_tokens(logits.copy(), [state], EOS)[0]] += 1
    return counts / DRAWS


def test_greedy_takes_the_likeliest_token_of_each_row() -> None:
    logits = random_logits(4)
    expected = logits.argmax(axis=1).tolist()
    assert next_tokens(logits, [row(do_sample=False) for _ in range(4)], EOS) == expected


@pytest.mark.parametrize(
    ("parameters", "warpers"),
    [
        ({"top_p": 0.6}, [TopPLogitsWarper(0.6)]),
        ({"top_p": 0.95, "temperature": 0.5}, [TemperatureLogitsWarper(0.5), TopPLogitsWarper(0.95)]),
        ({"top_p": 0.2, "temperature": 5.0}, [TemperatureLogitsWarper(5.0), TopPLogitsWarper(0.2)]),
        ({"top_p": 1.0, "top_k": 5}, [TopKLogitsWarper(5)]),
        (
            {"top_p": 0.7, "top_k": 10, "temperature": 2.0},
            [TemperatureLogitsWarper(2.0), TopKLogitsWarper(10), TopPLogitsWarper(0.7)],
        ),
    ],
    ids=["top-p", "top-p, temperature", "top-p, nearly flat", "top-k", "all of them"],
)
def test_sampling_draws_from_the_distribution_transformers_would(
    parameters: dict[str, object], warpers: list[Any]
) -> None:
    logits = random_logits()
    processors: Any = LogitsProcessorList(warpers)
    warped = processors(torch.zeros((1, 1), dtype=torch.long), torch.tensor(logits.copy()))
    expected = torch.softmax(warped, dim=-1)[0].numpy()
    drawn = frequencies(logits, **parameters)
    assert set(np.flatnonzero(drawn)) <= set(np.flatnonzero(expected))
    assert np.abs(drawn - expected).max() < 0.03


@pytest.mark.parametrize("penalty", [1.0, 1.3, 4.0])
@pytest.mark.parametrize("ngram", [0, 1, 2, 3])
def test_repetition_rules_change_the_scores_as_transformers_does(penalty: float, ngram: int) -> None:
    processors: Any = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(penalty)])
    if ngram:
        processors.append(NoRepeatNGramLogitsProcessor(ngram))
    state = row(do_sample=False, repetition_penalty=penalty, no_repeat_ngram_size=ngram)
    # Few distinct tokens, so that penalties and n-grams bite at nearly every step.
    logits = random_logits(40)
    logits[:, 8:] -= 20
    for step in logits:
        history = torch.tensor([state.history])
        expected = int(processors(history, torch.tensor(step[None].copy())).argmax())
        assert next_tokens(step[None], [state], EOS) == [expected]


def test_the_answer_cannot_end_before_min_length() -> None:
    logits = np.zeros((1, VOCABULARY), dtype=np.float32)
    logits[0, EOS] = 9
    state = row(min_length=3, do_sample=False)
    tokens = [next_tokens(logits.copy(), [state], EOS)[0] for _ in range(4)]
    assert EOS not in tokens[:3]
    assert tokens[3] == EOS


def test_a_seeded_row_draws_the_same_tokens_alone_and_in_company() -> None:
    steps = [random_logits(5, seed) for seed in range(20)]
    alone, together = row(seed=42), [row(seed=seed) for seed in (1, 2, 42, 3, 4)]
    company = [next_tokens(logits.copy(), together, EOS)[2] for logits in steps]
    assert [next_tokens(logits[2:3].copy(), [alone], EOS)[0] for logits in steps] == company


def test_rows_without_a_seed_draw_differently() -> None:
    flat = np.zeros((2, VOCABULARY), dtype=np.float32)
    states = [row(), row()]
    for _ in range(20):
        next_tokens(flat.copy(), states, EOS)
    assert states[0].new_tokens != states[1].new_tokens


def test_of_tokens_that_are_alike_the_first_make_up_the_nucleus() -> None:
    assert set(np.flatnonzero(frequencies(np.zeros((1, VOCABULARY), np.float32), top_p=2.5 / VOCABULARY))) == {0, 1, 2}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_an_error(value: float) -> None:
    with pytest.raises(NumericalError):
        next_tokens(np.full((1, VOCABULARY), value, dtype=np.float32), [row()], EOS)
