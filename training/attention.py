"""Self-attention of a T5's encoder in one kernel, for training on a GPU; the position bias gets its gradient.

Written out, the scores of 128 prompts of 512 tokens and 12 heads are 1.6 GB in float32, and softmax, bias, mask and
their gradients read and write them some ten times a layer. Here a tile of scores lives and dies on the chip, as in
FlashAttention-2 (Dao 2023), and is computed anew in the backward pass. What T5 adds is a learnt bias by head and
distance: PyTorch's kernels take one as a mask, but write its gradient for each row of the batch. It is the sum over
the rows that is wanted, so a kernel of its own goes through the rows for one tile of the bias: nothing is written but
the sum, in one order, the same each time.

`use` makes a model's encoder run so. Importing this module takes Triton, which comes with PyTorch for GPUs; a CPU runs
the kernels under TRITON_INTERPRET=1, to try them.
"""

from typing import Any, Final

import torch
import triton
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask
from transformers.models.t5.modeling_t5 import eager_attention_forward

from training import attention_kernels as kernels

NAME: Final = "t5_fused"
"""Under which `transformers` knows it."""

WIDEST: Final = 128
"""Of a head: what its tiles take of a processor's memory."""

INTERPRETED: Final[bool] = triton.knobs.runtime.interpret
"""Whether a CPU stands in for a GPU."""

FORWARD: Final = {"TILE_M": 128, "TILE_N": 64, "num_warps": 8, "num_stages": 3}
KEYS: Final = {"TILE_M": 64, "TILE_N": 128, "num_warps": 8, "num_stages": 2}
QUERIES: Final = {"TILE_M": 128, "TILE_N": 64, "num_warps": 8, "num_stages": 2}
BIAS: Final = {"TILE_M": 64, "TILE_N": 64, "num_warps": 4, "num_stages": 3}
"""Tiles of queries (M) and keys (N) of the four kernels: for an H100 none of them spills a register. `bench.attention`
times others."""


def use(model: Any) -> None:
    """Let the encoder of `model`, a T5 on a GPU, attend by the kernels; they run in half precision alone."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, eager_mask)
    # Its own: not every release of `transformers` hands a change of the whole model on to its stacks.
    model.encoder.set_attn_implementation(NAME)


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    position_bias: Tensor,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend as `transformers` has its attention functions: from (rows, heads, tokens, width) to (rows, tokens, heads,
    width).

    A decoder's attention, dropout, full precision and CPUs go the usual way.
    """
    on_chip = query.is_cuda or INTERPRETED
    if module.is_decoder or dropout or not on_chip or query.element_size() != 2 or query.shape[-1] > WIDEST:
        usual: tuple[Tensor, Tensor] = eager_attention_forward(
            module, query, key, value, attention_mask, position_bias=position_bias, dropout=dropout, **options
        )
        return usual
    kept = None if attention_mask is None else (attention_mask[:, 0, 0] >= 0).to(torch.uint8)
    return fused_attention(query, key, value, position_bias[0], kept), None


def fused_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, kept: Tensor | None) -> Tensor:
    """Return softmax(query key' + bias) value, shape (rows, tokens, heads, width), with gradients for all four.

    query, key, value: (rows, heads, tokens, width) of one half precision, the width next to each other in memory.
    bias: (heads, tokens, tokens), added for all rows; its gradient is summed in float32. kept: (rows, tokens) uint8,
    0 for keys that are padding; a row must keep its first key. Without it all are kept.
    """
    mixed: Tensor = _attention(query, key, value, bias, kept)[0]
    return mixed


@torch.library.custom_op("godel_serve::t5_attention", mutates_args=())
def _attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, kept: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the result and, of each query, the binary logarithm of the softmax's sum, (rows, heads, tokens)."""
    rows, heads, tokens, width = query.shape
    bias = bias.contiguous()
    mixed = query.new_empty(rows, tokens, heads, width)
    logs = query.new_empty(rows, heads, tokens, dtype=torch.float32)
    kernels.forward[(triton.cdiv(tokens, FORWARD["TILE_M"]), rows * heads)](
        query, key, value, bias, kept, mixed, logs,
        *_strides(query), *_strides(key), *_strides(value), heads, tokens,
        WIDTH=width, PADDED=_padded(width), MASKED=kept is not None, **FORWARD,
    )  # fmt: skip
    return mixed, logs


@_attention.register_fake
def _(query: Tensor, *_: Tensor | None) -> tuple[Tensor, Tensor]:
    rows, heads, tokens, width = query.shape
    return query.new_empty(rows, tokens, heads, width), query.new_empty(rows, heads, tokens, dtype=torch.float32)


@torch.library.custom_op("godel_serve::t5_attention_backward", mutates_args=())
def _attention_backward(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, kept: Tensor | None, mixed: Tensor, logs: Tensor,
    gradient: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Return the gradients of query, key, value and bias, given that of the result."""
    rows, heads, tokens, width = query.shape
    bias, gradient = bias.contiguous(), gradient.contiguous()
    # Of each query, what softmax takes off: the sum of its result's parts times their gradients.
    shares = (mixed.float() * gradient.float()).sum(-1).transpose(1, 2).contiguous()
    parts = [torch.empty(rows, tokens, heads, width, dtype=query.dtype, device=query.device) for _ in range(3)]
    of_query, of_key, of_value = parts
    of_bias = torch.empty(heads, tokens, tokens, dtype=torch.float32, device=query.device)
    given = (query, key, value, bias, kept, gradient, logs, shares)
    sizes = (*_strides(query), *_strides(key), *_strides(value), heads, tokens)
    fixed = {"WIDTH": width, "PADDED": _padded(width), "MASKED": kept is not None}
    kernels.backward_keys[(triton.cdiv(tokens, KEYS["TILE_N"]), rows * heads)](
        *given, of_key, of_value, *sizes, **fixed, **KEYS
    )
    kernels.backward_queries[(triton.cdiv(tokens, QUERIES["TILE_M"]), rows * heads)](
        *given, of_query, *sizes, **fixed, **QUERIES
    )
    kernels.backward_bias[(triton.cdiv(tokens, BIAS["TILE_M"]), triton.cdiv(tokens, BIAS["TILE_N"]), heads)](
        *given, of_bias, *sizes, rows, **fixed, **BIAS
    )
    of_query, of_key, of_value = (part.transpose(1, 2) for part in parts)
    return of_query, of_key, of_value, of_bias


@_attention_backward.register_fake
def _(query: Tensor, *_: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, heads, tokens, width = query.shape
    of_query, of_key, of_value = (query.new_empty(rows, tokens, heads, width).transpose(1, 2) for _ in range(3))
    return of_query, of_key, of_value, query.new_empty(heads, tokens, tokens, dtype=torch.float32)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)


def _gradients(ctx: Any, gradient: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    *parts, of_bias = _attention_backward(*ctx.saved_tensors, gradient)
    return *parts, of_bias.to(ctx.saved_tensors[3].dtype), None


_attention.register_autograd(_gradients, setup_context=_keep)


def _padded(width: int) -> int:
    """Return the power of two that a tile of so many columns is computed with."""
    return max(16, int(triton.next_power_of_2(width)))


def _strides(parts: Tensor) -> tuple[int, int, int]:
    """Return those of rows, heads and tokens."""
    rows, heads, tokens, _ = parts.stride()
    return rows, heads, tokens
