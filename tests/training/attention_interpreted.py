"""The encoder's attention in one kernel, interpreted on the CPU: its result, and the gradients of all its parts.

`test_attention.py` runs these in a process of their own: Triton decides when it is imported that it interprets.
"""

import copy
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.attention import relative_error, written_out
from training import attention
from training.batches import Row, collate
from training.losses import answer_objective
from training.model import fuse
from training.model_folder import load_model


@pytest.mark.parametrize(
    ("rows", "heads", "tokens", "width", "masked"),
    [(2, 2, 40, 16, True), (1, 3, 130, 48, True), (2, 2, 72, 48, False), (3, 1, 128, 64, False)],
    ids=["short", "beyond one tile", "no mask", "whole tiles"],
)
def test_result_and_gradients_are_those_of_attention_written_out_in_double_precision(
    rows: int, heads: int, tokens: int, width: int, masked: bool
) -> None:
    torch.manual_seed(tokens)
    # As a layer's projections leave them: heads side by side. The interpreter has float16, but no bfloat16.
    parts = [torch.randn(rows, tokens, heads, width).half().transpose(1, 2) for _ in range(3)]
    parts.append(torch.randn(heads, tokens, tokens))
    kept = None
    if masked:
        kept = torch.ones(rows, tokens, dtype=torch.uint8)
        kept[0, tokens // 3 :] = 0
    gradient = torch.randn(rows, tokens, heads, width).half()
    given = [part.detach().requires_grad_() for part in parts]
    exact = [part.detach().double().requires_grad_() for part in parts]
    query, key, value, bias = given
    found = attention.fused_attention(query, key, value, bias, kept)
    query, key, value, bias = exact
    expected = written_out(query, key, value, bias, kept)
    torch.autograd.backward(found, gradient)
    torch.autograd.backward(expected, gradient.double())
    assert relative_error(found, expected) < 1e-3
    for ours, theirs in zip(given, exact, strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert relative_error(ours.grad, theirs.grad) < 1e-3


def test_a_fused_model_compiled_has_the_same_loss_and_gradients(tiny_model: Path) -> None:
    plain: Any
    plain, _ = load_model(tiny_model)
    fused = copy.deepcopy(plain)
    fuse(fused)
    for block in fused.encoder.block[:2]:  # the first makes the bias, the others take it
        block.compile(dynamic=True, backend="aot_eager")
    draw = random.Random(0)

    def row(prompt: int, target: int) -> Row:
        ids = [draw.randrange(5, 600) for _ in range(prompt + target)]
        return Row(ids[:prompt], ids[prompt:], range(4, 20), range(8, 12))

    batch = collate([row(30, 5), row(24, 12), row(30, 9)])
    found = []
    for model in (plain, fused):
        with torch.autocast("cpu", torch.float16):
            loss = answer_objective(0.5)(model, batch).loss
        torch.autograd.backward(loss)
        bias = model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight.grad
        query = model.encoder.block[1].layer[0].SelfAttention.q.weight.grad
        found.append((loss.detach(), bias.double(), query.double()))
    (loss, *gradients), (its_loss, *its_gradients) = found
    assert abs(float(its_loss / loss) - 1) < 1e-3
    assert max(relative_error(*pair) for pair in zip(its_gradients, gradients, strict=True)) < 0.03


def test_full_precision_goes_the_usual_way(tiny_model: Path) -> None:
    plain: Any
    plain, _ = load_model(tiny_model)
    usual = copy.deepcopy(plain)
    fuse(usual)
    batch = collate([Row([7] * 30, [9] * 5), Row([8] * 12, [9] * 7)])
    losses = [answer_objective()(model, batch).loss for model in (plain, usual)]
    torch.testing.assert_close(*losses)
