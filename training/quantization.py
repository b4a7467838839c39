"""Weights in 8 and 4 bits, in the layouts of ONNX Runtime's operators; numpy alone.

A weight matrix is given as PyTorch keeps it: shape (outputs, inputs).
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

BLOCK: Final = 32
"""Inputs that share a scale in `by_block`.

Measured, not only chosen: with these ONNX Runtime's products give each row the same bits whatever the number
of rows, where the processor has VNNI (handler/engines/onnx_engine.py tries it on the machine it runs on). Twice as
many save a quarter of the time, lose that, and quality.
"""

_SHRINKS: Final = (0.95, 0.9, 0.85)
"""Scales tried, as shares of the one that reaches a block's largest weight: clipping that one a little can cost less
than rounding all others more coarsely."""


def by_channel(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return (values, scales) with `weight` = (values * scales).T nearly: shapes (inputs, outputs), (outputs,).

    Symmetric; for `MatMulIntegerToFloat`, which multiplies from the right.
    """
    scales = np.abs(weight).max(axis=1) / 127
    scales = np.where(scales == 0, 1, scales).astype(np.float32)
    values = np.rint(weight / scales[:, None]).astype(np.int8)
    return np.ascontiguousarray(values.T), scales


def by_block(weight: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return (packed values, scales) of `weight` in 4 bits and blocks of BLOCK inputs, for `MatMulNBits`.

    Shapes (outputs, blocks, BLOCK / 2) and (outputs, blocks); two values lie in a byte, the first in the low half. A
    value v stands for (v - 8) * scale. Inputs that do not fill the last block are zero.
    """
    outputs, inputs = weight.shape
    blocks = np.pad(weight, ((0, 0), (0, -inputs % BLOCK))).reshape(outputs, -1, BLOCK)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=2)[..., None], axis=2)
    # The range is one step longer on the negative side: the largest weight goes there, whatever its sign.
    full = np.where(largest == 0, 1, largest / -8).astype(np.float32)
    values, scales = _rounded(blocks, full), full
    least = _error(blocks, values, scales)
    for shrink in _SHRINKS:
        narrower = full * np.float32(shrink)
        other = _rounded(blocks, narrower)
        error = _error(blocks, other, narrower)
        better = error < least
        values, scales = np.where(better, other, values), np.where(better, narrower, scales)
        least = np.minimum(error, least)
    packed = values[..., 0::2] | values[..., 1::2] << np.uint8(4)
    return np.ascontiguousarray(packed), np.ascontiguousarray(scales[..., 0])


def _rounded(blocks: NDArray[np.float32], scales: NDArray[np.float32]) -> NDArray[np.uint8]:
    rounded: NDArray[np.uint8] = np.clip(np.rint(blocks / scales) + 8, 0, 15).astype(np.uint8)
    return rounded


def _error(blocks: NDArray[np.float32], values: NDArray[np.uint8], scales: NDArray[np.float32]) -> NDArray[np.float32]:
    difference: NDArray[np.float32] = (values.astype(np.float32) - 8) * scales - blocks
    error: NDArray[np.float32] = np.square(difference).sum(axis=2, keepdims=True)
    return error
