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

_PREVIOUS: Final = 1
"""The encoder's relative position bucket of the token just before."""
_SAME: Final = 0


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
    """Write the circuit into the encoder's first and the decoder's last layer; silence what would disturb it.

    Encoder: half of the heads look at the token before and add a sketch of it (a random projection,
    which keeps embeddings apart) to the residual stream. Decoder: the cross-attention's query is the
    same sketch of the last written token, its key that of the token before, its value the token itself.
    """
    width, head, heads = config.d_model, config.d_kv, config.num_heads
    looking_back = heads // 2
    sketch = _orthonormal(looking_back * head, width)
    place = _orthonormal(looking_back * head, width)

    for block in model.encoder.block:
        block.layer[0].SelfAttention.o.weight.zero_()
        block.layer[1].DenseReluDense.wo.weight.zero_()
    for block in model.decoder.block:
        block.layer[0].SelfAttention.o.weight.zero_()
        block.layer[1].EncDecAttention.o.weight.zero_()
        block.layer[2].DenseReluDense.wo.weight.zero_()

    first = model.encoder.block[0].layer[0].SelfAttention
    first.relative_attention_bias.weight[_PREVIOUS, :looking_back] = 8.0
    first.q.weight[: looking_back * head] *= 0.1
    first.v.weight[: looking_back * head] = sketch
    first.o.weight[:, : looking_back * head] = place.T
    # The other heads of every encoder layer find the same token elsewhere: the question's words in the passage.
    first.relative_attention_bias.weight[_SAME, looking_back:] = -8.0
    for block in list(model.encoder.block)[1:3]:
        matching = _orthonormal((heads - looking_back) * head, width) * 0.35
        block.layer[0].SelfAttention.q.weight[looking_back * head :] = matching
        block.layer[0].SelfAttention.k.weight[looking_back * head :] = matching

    copy = model.decoder.block[-1].layer[1].EncDecAttention
    value = _orthonormal(heads * head, width)
    for number in range(heads):
        rows = slice(number * head, (number + 1) * head)
        seen = slice(number % looking_back * head, (number % looking_back + 1) * head)
        copy.q.weight[rows] = sketch[seen] * 0.45
        copy.k.weight[rows] = place[seen] * 0.45
    copy.v.weight.copy_(value)
    copy.o.weight.copy_(value.T * 3)


def _orthonormal(rows: int, columns: int) -> torch.Tensor:
    """Return random rows, orthonormal where rows <= columns, columns otherwise."""
    weight = torch.empty(rows, columns)
    torch.nn.init.orthogonal_(weight)
    return weight
