"""Batches: a pool that has no rows ends a run, and shares of a step add up to it."""

import random
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from training.batches import BatchShape, Drawn, Position, Row, Share
from training.data import DataError, Pair
from training.losses import answer_objective
from training.model_folder import load_model

STEP = [
    Row([7] * 40, [9] * 3, range(4, 40), range(8, 12)),
    Row([8] * 35, [9] * 12, range(4, 35), range(20, 30)),
    Row([7] * 30, [8] * 20),  # its target stands nowhere in the knowledge
    Row([9] * 22, [8, 9] * 4, range(4, 22), range(4, 5)),
    Row([8] * 33, [7] * 2),
]


def test_a_pool_of_nothing_but_too_long_pairs_is_refused(tiny_model: Path) -> None:
    shape = BatchShape(prompt=20, target=60, pool=4)
    drawn = 0

    def too_long(_rng: random.Random) -> Pair:
        nonlocal drawn
        drawn += 1
        assert drawn <= shape.pool, "another pool is drawn, as empty as the first"
        return Pair("word " * 100, "word")

    source = Drawn(too_long, Tokenizer.from_file(str(tiny_model / "tokenizer.json")), shape, seed=0)
    with pytest.raises(DataError, match="none of the 4 examples drawn is short enough; a prompt may have 20 tokens"):
        next(source.batches(Position()))


@pytest.mark.parametrize(("processes", "accumulation"), [(2, 1), (1, 3), (4, 2)])
def test_the_losses_and_gradients_of_shares_add_up_to_those_of_the_step(
    tiny_model: Path, processes: int, accumulation: int
) -> None:
    objective = answer_objective(0.5)
    found = []
    for shares in ([Share()], [Share(rank, processes, accumulation) for rank in range(processes)]):
        model, _ = load_model(tiny_model)
        total = torch.zeros(())
        for share in shares:
            for batch in share.batches(STEP):
                loss = objective(model, batch).loss
                loss.backward()  # type: ignore[no-untyped-call]
                total += loss.detach()
        found.append((total, {name: value.grad for name, value in model.named_parameters()}))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-4)


def test_the_choices_of_a_whole_step_count_as_all_of_its_targets() -> None:
    (batch,) = Share().batches(STEP)
    assert batch.choice_targets == batch.targets
    (without,) = Share().batches([STEP[2]])
    assert without.choice_targets == 0
