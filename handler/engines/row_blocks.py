"""How many rows a matrix product must have at once so that no row's result depends on the others.

A product of one row may sum in another order than one of eight, so a near tie between two tokens could
fall differently in company. Libraries choose by shape and machine, hence a trial over a model's own shapes.
"""

import logging
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import linear

logger = logging.getLogger(__name__)


@torch.inference_mode()
def find_row_block(weights: Iterable[Tensor], slots: int) -> int:
    """Return the least block such that products over multiples of it, up to `slots` rows, have independent rows.

    Falls back to `slots`, with a warning, where none of 1, 2, 4, 8 does.
    """
    shapes = list({weight.shape: weight for weight in weights}.values())
    generator = torch.Generator().manual_seed(0)
    for block in (1, 2, 4, 8):
        most = -(-slots // block) * block
        trials = [torch.randn(most, weight.shape[1], generator=generator) for weight in shapes]
        if all(
            _rows_are_independent(weight, rows.to(weight.device, weight.dtype), block)
            for weight, rows in zip(shapes, trials, strict=True)
        ):
            return block
    logger.warning("rows of a product depend on its size here: near ties may fall differently in a batch")
    return slots


def _rows_are_independent(weight: Tensor, rows: Tensor, block: int) -> bool:
    """Return whether every product over a multiple of `block` rows gives each row the same bits, wherever it stands."""
    expected = torch.cat([linear(chunk, weight) for chunk in torch.split(rows, block)])
    for count in range(block, len(rows) + 1, block):
        for shift in range(count):
            moved = linear(rows[:count].roll(shift, 0), weight)
            if not torch.equal(moved.roll(-shift, 0), expected[:count]):
                return False
    return True
