"""The two layers of a T5 that treat every row alone: its norm and its feed-forward block, in PyTorch."""

import torch
from torch import Tensor
from torch.nn.functional import linear, relu

from handler.engines.torch_weights import FeedForward


def root_mean_square_norm(hidden: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Root mean square norm, in float32 as T5 does it (Zhang & Sennrich 2019; no mean, no bias)."""
    wide = hidden.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
    return (wide * scale).to(hidden.dtype) * weight


def feed_forward(hidden: Tensor, weights: FeedForward, epsilon: float) -> Tensor:
    """Return `hidden` with its feed-forward block added: norm, widen, relu, narrow."""
    normed = root_mean_square_norm(hidden, weights.norm, epsilon)
    return hidden + linear(relu(linear(normed, weights.inner)), weights.output)
