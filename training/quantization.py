"""Weights in 8 and 4 bits, in the layouts of ONNX Runtime's operators; numpy alone.

A weight matrix is given as PyTorch keeps it: shape (outputs, inputs).
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

BLOCKS: Final = {8: 64, 4: 32}
"""Inputs that share a scale in `by_block`, by number of bits.

Measured, not only chosen: with these ONNX Runtime's products give each row the same bits whatever the number
of rows (handler/engines/onnx_engine.py tries it on the machine it runs on). Twice as many save a quarter of the
time in 4 bits, lose that, and quality.
"""

_SHRINKS: Final = (1.0, 0.95, 0.9, 0.85)
"""Scales tried for 4 bits, as shares of the one that reaches a block's largest weight: clipping that one a
little can cost less than rounding all others more coarsely."""


def by_channel(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return (values, scales) with `weight` = (values * scales).T nearly: shapes (inputs, outputs), (outputs,).

    Symmetric; for `DynamicQuantizeMatMul`, which multiplies from the right.
    """
    scales = np.abs(weight).max(axis=1) / 127
    scales = np.where(scales == 0, 1, scales).astype(np.float32)
    values = np.rint(weight / scales[:, None]).astype(np.int8)
    return np.ascontiguousarray(values.T), scales


def by_block(weight: NDArray[np.float32], bits: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return (packed values, scales) of `weight` in blocks of BLOCKS[bits] inputs, for `MatMulNBits`.

    Shapes (outputs, blocks, block * bits / 8) and (outputs, blocks); 4-bit values lie two in a byte, the
    first in the low half. A value v stands for (v - 2 ** (bits - 1)) * scale. Inputs that do not fill
    the last block are zero.
    """
    block, middle = BLOCKS[bits], 1 << (bits - 1)
    outputs, inputs = weight.shape
    blocks = np.pad(weight, ((0, 0), (0, -inputs % block))).reshape(outputs, -1, block)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=2)[..., None], axis=2)
    # The range is one step longer on the negative side: the largest weight goes there, whatever its sign.
    full = np.where(largest == 0, 1, largest / -middle).astype(np.float32)
    values, scales = _rounded(blocks, full, middle)
    if bits == 4:
        least = _error(blocks, values, scales, middle)
        for shrink in _SHRINKS[1:]:
            other, narrower = _rounded(blocks, full * np.float32(shrink), middle)
            error = _error(blocks, other, narrower, middle)
            better = error < least
            values, scales = np.where(better, other, values), np.where(better, narrower, scales)
            least = np.minimum(error, least)
        values = values[..., 0::2] | values[..., 1::2] << np.uint8(4)
    return np.ascontiguousarray(values), np.ascontiguousarray(scales[..., 0])


def _rounded(
    blocks: NDArray[np.float32], scales: NDArray[np.float32], middle: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    return np.clip(np.rint(blocks / scales) + middle, 0, 2 * middle - 1).astype(np.uint8), scales


def _error(
    blocks: NDArray[np.float32], values: NDArray[np.uint8], scales: NDArray[np.float32], middle: int
) -> NDArray[np.float32]:
    difference: NDArray[np.float32] = (values.astype(np.float32) - middle) * scales - blocks
    error: NDArray[np.float32] = np.square(difference).sum(axis=2, keepdims=True)
    return error
