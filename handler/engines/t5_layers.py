"""What of a T5 treats every row alone: its norm, what is added to a row, its feed-forward block; in PyTorch."""

import torch
from torch import Tensor
from torch.nn.functional import linear, relu, rms_norm

from handler.engines.torch_weights import FeedForward


def launches(hidden: Tensor) -> bool:
    """Whether each operation on `hidden` is a kernel launched: on a GPU, where a step's time is their number."""
    return hidden.is_cuda


def root_mean_square_norm(hidden: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Root mean square norm, in float32 as T5 does it (Zhang & Sennrich 2019; no mean, no bias)."""
    if launches(hidden):  # one kernel instead of eight, and it rounds once
        return rms_norm(hidden, weight.shape, weight, epsilon)
    wide = hidden.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
    return (wide * scale).to(hidden.dtype) * weight


def add_linear(hidden: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
    """Return `hidden` with `linear(rows, weight)` added, both (rows, d_model).

    On a GPU the product's kernel adds, and writes to `hidden`, which is to be used no more.
    """
    return hidden.addmm_(rows, weight.T) if launches(hidden) else hidden + linear(rows, weight)


def feed_forward(hidden: Tensor, weights: FeedForward, epsilon: float) -> Tensor:
    """Return `hidden` with its feed-forward block added, as `add_linear` does: norm, widen, relu, narrow."""
    normed = root_mean_square_norm(hidden, weights.norm, epsilon)
    return add_linear(hidden, relu(linear(normed, weights.inner)), weights.output)
