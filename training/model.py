"""The embedded model's shape and its first weights: a small T5 that starts with a copying circuit in place.

Left to itself a small T5 needs tens of millions of tokens before "find the last written token in the
passage, write the one after it" appears in its attention (the induction circuit of Olsson et al. 2022,
across the encoder and the decoder). Nothing in it depends on the data, so it is written into the first
weights; training is free to change it. `LOG.md` has the comparison.
"""

from typing import Any, Final

import torch
from transformers import T5Config, T5ForConditionalGeneration

from training.tokenizer import CONTROL_TOKENS, END, PAD

_SAME: Final = 0
"""The relative position bucket of a token itself; 1 and 2 are those of the tokens one and two before."""
_SHARPNESS: Final = 0.7
"""Scale of queries and keys: both predecessors matching stands out of a hundred positions, one does not quite."""


def new_model(vocabulary: int, *, seed: int, copying_circuit: bool = True, **shape: Any) -> Any:
    """Return a T5 of GODEL's kind (relu, tied embeddings) with fresh weights; `shape` goes to T5Config."""
    make_config: Any = T5Config  # its signature leaves out what every PreTrainedConfig takes
    config = make_config(
        vocab_size=vocabulary,
        feed_forward_proj="relu",
        tie_word_embeddings=True,
        dropout_rate=0.0,
        relative_attention_num_buckets=32,
        relative_attention_max_distance=128,
        layer_norm_epsilon=1e-6,
        pad_token_id=CONTROL_TOKENS.index(PAD),
        eos_token_id=CONTROL_TOKENS.index(END),
        decoder_start_token_id=CONTROL_TOKENS.index(PAD),
        **shape,
    )
    torch.manual_seed(seed)
    model = T5ForConditionalGeneration(config)
    if copying_circuit:
        _write_copying_circuit(model, config)
    return model


@torch.no_grad()
def _write_copying_circuit(model: Any, config: Any) -> None:
    """Write the circuit into the encoder's first layer and the decoder; silence what would disturb it.

    Encoder: a third of the heads look at the token before, a third at the one before that; each adds a
    sketch of it (a random projection, which keeps embeddings apart) to the residual stream at a place of
    its own. Decoder: its first layer sketches the last token but one in the same way; the last layer's
    cross-attention then asks for the position whose two predecessors are the last two tokens written,
    and its value is the token there. Two tokens, since after "the" or a comma one says too little.
    """
    width, head, heads = config.d_model, config.d_kv, config.num_heads
    third = max(1, heads * 3 // 8)
    size = third * head
    once, twice = _orthonormal(size, width), _orthonormal(size, width)
    place_once, place_twice = torch.split(_orthonormal(2 * size, width), size)
    place_written = _orthonormal(size, width)

    for block in model.encoder.block:
        block.layer[0].SelfAttention.o.weight.zero_()
        block.layer[1].DenseReluDense.wo.weight.zero_()
    for block in model.decoder.block:
        block.layer[0].SelfAttention.o.weight.zero_()
        block.layer[1].EncDecAttention.o.weight.zero_()
        block.layer[2].DenseReluDense.wo.weight.zero_()

    first = model.encoder.block[0].layer[0].SelfAttention
    for number, (bucket, sketch, place) in enumerate(((1, once, place_once), (2, twice, place_twice))):
        _look_back(first, slice(number * third, (number + 1) * third), head, bucket, sketch, place)
    _look_back(model.decoder.block[0].layer[0].SelfAttention, slice(0, third), head, 1, twice, place_written)

    # The remaining heads of the next encoder layers find the same token elsewhere: the question's words in the passage.
    rest = slice(2 * third * head, heads * head)
    first.relative_attention_bias.weight[_SAME, 2 * third :] = -8.0
    for block in list(model.encoder.block)[1:3]:
        matching = _orthonormal(heads * head - 2 * size, width) * 0.35
        block.layer[0].SelfAttention.q.weight[rest] = matching
        block.layer[0].SelfAttention.k.weight[rest] = matching

    copy = model.decoder.block[-1].layer[1].EncDecAttention
    value, half = _orthonormal(heads * head, width), head // 2
    for number in range(heads):
        seen = slice(number * half % size, number * half % size + half)
        last, one_before = slice(number * head, number * head + half), slice(number * head + half, (number + 1) * head)
        copy.q.weight[last], copy.k.weight[last] = once[seen] * _SHARPNESS, place_once[seen] * _SHARPNESS
        copy.q.weight[one_before] = place_written[seen] * _SHARPNESS
        copy.k.weight[one_before] = place_twice[seen] * _SHARPNESS
    copy.v.weight.copy_(value)
    copy.o.weight.copy_(value.T * 4)


def _look_back(attention: Any, heads: slice, head: int, bucket: int, sketch: torch.Tensor, place: torch.Tensor) -> None:
    """Make `heads` of a self-attention add a sketch of the token at the distance `bucket` stands for, at `place`."""
    rows = slice(heads.start * head, heads.stop * head)
    attention.relative_attention_bias.weight[bucket, heads] = 8.0
    attention.q.weight[rows] *= 0.1
    attention.v.weight[rows] = sketch
    attention.o.weight[:, rows] = place.T


def _orthonormal(rows: int, columns: int) -> torch.Tensor:
    """Return random rows, orthonormal where rows <= columns, columns otherwise."""
    weight = torch.empty(rows, columns)
    torch.nn.init.orthogonal_(weight)
    return weight
