"""Two circuits written into a small T5's first weights: choosing a sentence, and copying it.

Left to itself a small T5 needs tens of millions of tokens before attention finds out that an answer stands
in the passage where the question's words stand ("choosing"), and that the next token is the one after the
last written token there ("copying", the induction circuit of Olsson et al. 2022 across encoder and
decoder). Neither depends on the data, so both are in the weights from the start; training is free to
change them, and has to learn what the words mean. `LOG.md` has the comparison.

The residual stream is divided: `RESERVED` axes hold one number each, all others the token's embedding and
sketches of its neighbours (random projections, which keep embeddings apart) in directions of their own. T5
shares its position bias between all layers, so a head that looks back in one layer does so in each; every
head therefore has one kind of work:

    heads           looks at                            work
    0, 1            the token before                    layer 0: sketch it; layer 1: so the one before that
    2               everything that follows             layer 0: is the knowledge tag ahead? then I am in the question
    3               what follows, the near first        layer 3: fetch the sentence's mark from its full stop
    4               what was before, the near first     layer 0: sketch the last ten or so together
    5 ..            anything but itself                 layers 1, 2: the same word in the question
    the last        up to some 24 tokens before         layer 2: at a full stop, collect the sentence's matches
"""

import math
from typing import Any, Final, NamedTuple

import torch
from tokenizers import Tokenizer
from torch import Tensor

from handler.contract.prompt import KNOWLEDGE_TAG
from training.tokenizer import CONTROL_TOKENS, PAD

CONSTANT, IN_QUESTION, MATCHED, CHOSEN, RARITY, COLLECTED = range(6)
"""Reserved axes: always the same; is part of the question; stands in the question too; belongs to the chosen sentence;
how rare the token is; matches collected over a sentence. Training reads CHOSEN after the encoder's last norm."""
RESERVED: Final = 6

_BEFORE: Final = 16
"""Position buckets 0-15 are a key at or before the query, 16-31 one after it (T5, bidirectional)."""
_ONE: Final = 3.0
"""The constant axis of every embedding, whose other axes have a standard deviation of 1."""
_LOOK_BACK: Final = slice(0, 2)
_AHEAD, _NEXT_STOP, _WINDOW, _FIRST_MATCHING = 2, 3, 4, 5
_SHARPNESS: Final = 0.8
"""Scale of the copying queries and keys: both predecessors matching stands out of a hundred positions, one does not
quite."""
_WINDOW_TOKENS: Final = 5.0
"""After so many tokens a token's weight in the window is 1/e."""
_WINDOW_GAIN: Final = 3.0
"""Brings a mean of some ten independent tokens back to the size of one."""
_LEAST_LAYERS, _LEAST_HEADS, _LEAST_HEAD = 4, 7, 8


class _Past(NamedTuple):
    """Directions in which a token of the prompt carries sketches of what stands before it, a row for each number."""

    last: Tensor
    one_before: Tensor
    window: Tensor


@torch.no_grad()
def write_circuits(model: Any, tokenizer: Tokenizer) -> None:
    """Write both circuits into `model`, a fresh T5; every other layer starts by adding nothing.

    Raises ValueError when it has fewer than 4 encoder layers, 1 decoder layer, 7 heads or heads of width 8.
    """
    config = model.config
    if config.num_layers < _LEAST_LAYERS or config.num_heads < _LEAST_HEADS or config.d_kv < _LEAST_HEAD:
        raise ValueError(
            f"the circuits need {_LEAST_LAYERS} encoder layers and {_LEAST_HEADS} heads of width {_LEAST_HEAD}; the"
            f" model has {config.num_layers} and {config.num_heads} of {config.d_kv}; give it more, or circuits: false"
        )
    for block in (*model.encoder.block, *model.decoder.block):
        for layer in block.layer:
            part = layer.DenseReluDense.wo if hasattr(layer, "DenseReluDense") else _attention(layer).o
            part.weight.zero_()
    tag, stop = (tokenizer.get_vocab()[token] for token in (KNOWLEDGE_TAG, "."))
    embedding = model.shared.weight
    _mark_embeddings(embedding, tag, stop)
    width = config.d_kv
    size = (_LOOK_BACK.stop - _LOOK_BACK.start) * width
    tag_direction, stop_direction = _direction(embedding[tag]), _direction(embedding[stop])
    sketch, gist = torch.split(_orthonormal(size + width, config.d_model), [size, width])
    start = torch.nn.functional.normalize(tag_direction + stop_direction, dim=0)
    gist -= gist @ start[:, None] * start  # an answer that has just begun has no past
    past = _Past(*torch.split(_orthonormal(2 * size + width, config.d_model), [size, size, width]))
    _write_past(model, sketch, gist, past)
    _write_choosing(model, tag_direction, stop_direction)
    _write_copying(model, sketch, gist, past, start)


def _mark_embeddings(embedding: Tensor, tag: int, stop: int) -> None:
    """Fill the reserved axes. The start token looks like a full stop and the tag: what a sentence follows."""
    vocabulary = embedding.shape[0]
    embedding[:, :RESERVED] = 0
    # The tokenizer's ids go by rank, so their logarithm goes with rarity (Zipf); control tokens and bytes have none.
    first = len(CONTROL_TOKENS) + 256
    ranks = (torch.arange(vocabulary).float() - first).clamp(min=0)
    embedding[:, RARITY] = 3 * torch.log1p(ranks) / math.log(vocabulary)
    embedding[CONTROL_TOKENS.index(PAD)] = (embedding[tag] + embedding[stop]) / math.sqrt(2)
    embedding[:, CONSTANT] = _ONE


def _write_choosing(model: Any, tag: Tensor, stop: Tensor) -> None:
    config = model.config
    width, heads = config.d_kv, config.num_heads
    layers = [_attention(block.layer[0]) for block in model.encoder.block]
    bias = layers[0].relative_attention_bias.weight

    bias[:_BEFORE, _AHEAD], bias[_BEFORE:, _AHEAD] = -12.0, 0.0
    row = _cleared(layers[0], _AHEAD, width)
    layers[0].q.weight[row, CONSTANT], layers[0].k.weight[row] = 1 / _ONE, tag
    layers[0].v.weight[row], layers[0].o.weight[IN_QUESTION, row] = tag, 0.5

    bias[0, _FIRST_MATCHING:] = -8.0
    for layer in layers[1:3]:
        for head in range(_FIRST_MATCHING, heads):
            row = _cleared(layer, head, width)
            same = _orthonormal(width - 3, config.d_model) * 0.6
            layer.q.weight[row : row + width - 3] = layer.k.weight[row : row + width - 3] = same
            # A key in the question is preferred; without a match the tag is, which carries neither mark.
            question, none = row + width - 3, row + width - 2
            layer.q.weight[question, CONSTANT], layer.k.weight[question, IN_QUESTION] = 1 / _ONE, 1.0
            layer.q.weight[none, CONSTANT], layer.k.weight[none] = 1 / _ONE, 0.9 * tag
    for head in range(_FIRST_MATCHING, heads):
        row = head * width
        value, output = layers[1].v.weight, layers[1].o.weight
        value[row], value[row + 1] = 0, 0
        value[row, RARITY], value[row + 1, IN_QUESTION] = 0.5, 0.5
        output[MATCHED, row] = output[MATCHED, row + 1] = 1 / (heads - _FIRST_MATCHING)

    last = heads - 1
    bias[:, last], bias[:12, last] = -8.0, 0.0
    row = _cleared(layers[2], last, width)
    layers[2].v.weight[row, MATCHED], layers[2].o.weight[COLLECTED, row] = 1.0, 4.0

    bias[:_BEFORE, _NEXT_STOP], bias[_BEFORE:, _NEXT_STOP] = -12.0, -torch.arange(16.0)
    bias[0, _NEXT_STOP] = 0.0
    row = _cleared(layers[3], _NEXT_STOP, width)
    layers[3].q.weight[row, CONSTANT], layers[3].k.weight[row] = 1 / _ONE, 1.5 * stop
    layers[3].v.weight[row, COLLECTED], layers[3].o.weight[CHOSEN, row] = 1.0, 1.0


def _write_past(model: Any, sketch: Tensor, gist: Tensor, past: _Past) -> None:
    """Let every token of the prompt carry what stands before it: the last, the one before that, and the window."""
    width = model.config.d_kv
    layers = [_attention(block.layer[0]) for block in model.encoder.block[:2]]
    bias = layers[0].relative_attention_bias.weight
    back = slice(0, _LOOK_BACK.stop * width)
    bias[1, _LOOK_BACK] = 8.0
    for layer, read, written in ((layers[0], sketch, past.last), (layers[1], past.last, past.one_before)):
        layer.q.weight[back] *= 0.1
        layer.v.weight[back], layer.o.weight[:, back] = read, written.T
    near = torch.arange(8.0)
    distances = torch.cat([near, 8 * 16 ** (near / 8)])
    bias[:_BEFORE, _WINDOW], bias[_BEFORE:, _WINDOW] = (1 - distances) / _WINDOW_TOKENS, -12.0
    bias[0, _WINDOW] = -12.0
    _write_window(layers[0], width, gist, past.window)


def _write_copying(model: Any, sketch: Tensor, gist: Tensor, past: _Past, start: Tensor) -> None:
    """Make the decoder's last cross-attention point at what follows the last tokens, in the chosen sentence.

    Its first layer sketches what was written before the last token, as the encoder did; the value read is
    the token pointed at. Two tokens, since after "the" or a comma one says too little, and the window, since a
    phrase may stand there twice.
    """
    config = model.config
    width, heads = config.d_kv, config.num_heads
    written, window = torch.split(_orthonormal(sketch.shape[0] + width, config.d_model), [sketch.shape[0], width])
    first = _attention(model.decoder.block[0].layer[0])
    bias = first.relative_attention_bias.weight
    back = slice(0, _LOOK_BACK.stop * width)
    bias[1, _LOOK_BACK] = 8.0
    first.q.weight[back] *= 0.1
    first.v.weight[back], first.o.weight[:, back] = sketch, written.T
    near = torch.arange(16.0)
    bias[:, _WINDOW] = -torch.cat([near, 16 * 8 ** (near / 16)]) / _WINDOW_TOKENS
    _write_window(first, width, gist, window)
    # The start token weighs as much as ten others: the window fills as the answer grows, rather than be all of its
    # first token.
    row = _WINDOW * width
    first.q.weight[row, CONSTANT], first.k.weight[row] = 1 / _ONE, start * math.log(10) / math.sqrt(config.d_model)

    copy = _attention(model.decoder.block[-1].layer[1])
    copy.q.weight.zero_()
    copy.k.weight.zero_()
    parts = ((sketch, past.last, 3), (written, past.one_before, 3), (window, past.window, 2))
    for head in range(heads):
        row = head * width
        for query, key, eighths in parts:
            count = width * eighths // 8
            seen = torch.arange(head * count, (head + 1) * count) % len(query)
            copy.q.weight[row : row + count] = query[seen] * _SHARPNESS
            copy.k.weight[row : row + count] = key[seen] * _SHARPNESS
            row += count
        chosen = (head + 1) * width - 1
        copy.q.weight[chosen], copy.k.weight[chosen] = 0, 0
        copy.q.weight[chosen, CONSTANT], copy.k.weight[chosen, CHOSEN] = 1 / _ONE, 1.0
    value = _orthonormal(heads * width, config.d_model)
    copy.v.weight.copy_(value)
    copy.o.weight.copy_(value.T * 4)


def _write_window(attention: Any, width: int, gist: Tensor, written: Tensor) -> None:
    """Write the mean of what the window's head sees, read as `gist`, to the directions `written`."""
    row = slice(_WINDOW * width, (_WINDOW + 1) * width)
    attention.q.weight[row], attention.k.weight[row] = 0, 0
    attention.v.weight[row], attention.o.weight[:, row] = gist, written.T * _WINDOW_GAIN


def _attention(layer: Any) -> Any:
    return layer.SelfAttention if hasattr(layer, "SelfAttention") else layer.EncDecAttention


def _cleared(attention: Any, head: int, width: int) -> int:
    """Zero the head's queries, keys and values, and return its first row."""
    row = head * width
    for part in (attention.q, attention.k, attention.v):
        part.weight[row : row + width] = 0
    return row


def _direction(embedding: Tensor) -> Tensor:
    plain = embedding.clone()
    plain[:RESERVED] = 0
    return torch.nn.functional.normalize(plain, dim=0)


def _orthonormal(rows: int, columns: int) -> Tensor:
    """Return random rows without a part on the reserved axes: orthonormal where there are columns enough."""
    weight = torch.empty(rows, columns - RESERVED)
    torch.nn.init.orthogonal_(weight)
    return torch.cat([torch.zeros(rows, RESERVED), weight], dim=1)
