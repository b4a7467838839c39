"""The embedded model: a small T5 of GODEL's kind, its first weights written or random; fused and compiled for a GPU."""

from functools import partial
from typing import Any

import torch
import torch._dynamo.config
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.functional import relu, rms_norm
from transformers import T5Config, T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5DenseActDense, T5LayerNorm

from training.circuits import write_circuits
from training.tokenizer import CONTROL_TOKENS, END, PAD


def new_model(
    tokenizer: Tokenizer, *, seed: int, circuits: bool = True, vectors: Tensor | None = None, **shape: Any
) -> Any:
    """Return a T5 of GODEL's kind (relu, tied embeddings) with fresh weights; `shape` goes to T5Config.

    Half of a token's embedding is its vector in `vectors` (vocabulary, d_model), unless that is nought; the other half
    is random, so that tokens used alike can still be told apart, and copied.
    With `circuits`, those of `training.circuits` are in the first weights. Raises ValueError when the
    shape has too few layers or heads for them.
    """
    make_config: Any = T5Config  # its signature leaves out what every PreTrainedConfig takes
    config = make_config(
        vocab_size=tokenizer.get_vocab_size(),
        feed_forward_proj="relu",
        tie_word_embeddings=True,
        dropout_rate=0.0,
        relative_attention_num_buckets=32,
        relative_attention_max_distance=128,
        layer_norm_epsilon=1e-6,
        attn_implementation="eager",  # with a position bias to be learnt, PyTorch's own is the slower one
        pad_token_id=CONTROL_TOKENS.index(PAD),
        eos_token_id=CONTROL_TOKENS.index(END),
        decoder_start_token_id=CONTROL_TOKENS.index(PAD),
        **shape,
    )
    torch.manual_seed(seed)
    model = T5ForConditionalGeneration(config)
    if vectors is not None:
        with torch.no_grad():
            known = vectors.any(1)
            model.shared.weight[known] = (model.shared.weight[known] + vectors[known]) / 2**0.5
    if circuits:
        write_circuits(model, tokenizer)
    return model


def fuse(model: Any) -> None:
    """Let `model`, a T5 as `new_model` makes it, do in one kernel on a GPU what it does in many, for the same results.

    Its encoder's attention, where `training.attention` can, and all norms; and what autocast makes narrow stays so
    between two products. Raises ValueError without Triton.
    """
    try:
        from training import attention
    except ImportError as error:
        raise ValueError("fuse: attention in one kernel needs Triton, which comes with PyTorch for GPUs") from error
    attention.use(model)
    in_one = {T5LayerNorm: _norm, T5DenseActDense: _feed_forward}
    for part in model.modules():
        if forward := in_one.get(type(part)):
            part.forward = partial(forward, part)


def _norm(norm: Any, hidden: Tensor) -> Tensor:
    normed = rms_norm(hidden, norm.weight.shape, norm.weight, norm.variance_epsilon)
    kind = hidden.device.type
    # Made narrow once, not by each of the products that read it.
    return normed.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else normed


def _feed_forward(block: Any, hidden: Tensor) -> Tensor:
    narrowed: Tensor = block.wo(relu(block.wi(hidden)))
    return narrowed


def compile_blocks(model: Any, backend: str = "inductor") -> None:
    """Let torch.compile make programs of those blocks of `model`, a T5, that have none yet.

    The blocks of a stack share theirs, which are therefore made once and not for each layer. They spare attention
    writing out its scores in float32 several times over.
    """
    # First and other blocks, encoder's and decoder's, with and without a mask: beyond the limit they run uncompiled.
    torch._dynamo.config.recompile_limit = 64
    for block in (*model.encoder.block, *model.decoder.block):
        if block._compiled_call_impl is None:
            block.compile(dynamic=True, backend=backend)
