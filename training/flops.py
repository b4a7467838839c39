"""How much arithmetic training a T5 takes, to tell which share of a device's peak a run uses."""

from typing import Any

from training.batches import Batch


def training_flops(config: Any, batch: Batch) -> float:
    """Return the operations of one forward and backward pass of a T5 of `config` over `batch`, padding not counted.

    By weight of a matrix and token 2 forward and 4 backward; by pair of positions and attention's width 4 and 8
    (Chowdhery et al. 2022, PaLM, appendix B). Norms, softmax and the optimizer are left out, as usual.
    """
    width, inner = config.d_model, config.num_heads * config.d_kv
    feed_forward = (3 if config.is_gated_act else 2) * width * config.d_ff
    cross = 2 * width * inner * config.num_decoder_layers  # keys and values, of each token of the prompt
    encoder = config.num_layers * (4 * width * inner + feed_forward) + cross
    decoder = config.num_decoder_layers * (6 * width * inner + feed_forward) + width * config.vocab_size
    matrices = encoder * (batch.tokens - batch.targets) + decoder * batch.targets
    pairs = config.num_layers * batch.prompt_pairs + config.num_decoder_layers * batch.target_pairs
    return float(6 * matrices + 12 * inner * pairs)
