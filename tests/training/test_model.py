"""The embedded model's blocks, compiled: the same numbers, whatever the batches' shapes."""

import copy
from pathlib import Path
from typing import Any

import torch

from training.batches import Row, collate
from training.losses import answer_objective
from training.model import compile_blocks
from training.model_folder import load_model


def test_compiled_blocks_give_the_same_loss_and_gradients_for_batches_of_any_shape(tiny_model: Path) -> None:
    plain: Any
    plain, _ = load_model(tiny_model)
    compiled = copy.deepcopy(plain)
    compile_blocks(compiled, backend="aot_eager")  # traced and derived as for a GPU, but run as it stands
    compile_blocks(compiled)  # a later stage's call leaves them as they are
    objective = answer_objective(0.5)
    for lengths in ([(40, 9)] * 3, [(30, 5), (24, 12)], [(33, 7)] * 5):
        batch = collate([Row([7] * prompt, [9] * target, range(4, 20), range(8, 12)) for prompt, target in lengths])
        found = []
        for model in (plain, compiled):
            model.zero_grad()
            loss = objective(model, batch).loss
            loss.backward()  # type: ignore[no-untyped-call]
            found.append((loss, {name: value.grad for name, value in model.named_parameters()}))
        torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-4)
