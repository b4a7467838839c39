"""The shape of a T5 checkpoint, read from its `config.json`, and T5's relative position buckets."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from handler.engines.base import EngineError


@dataclass(frozen=True, slots=True, kw_only=True)
class T5Geometry:
    """What an engine needs to know of a T5 encoder-decoder with relu feed-forward layers, GODEL's kind."""

    d_model: int
    d_kv: int
    d_ff: int
    heads: int
    encoder_layers: int
    decoder_layers: int
    vocabulary: int
    buckets: int
    max_distance: int
    epsilon: float
    scale_output: bool
    """Whether the decoder's output is scaled by d_model ** -0.5 before the head: T5 does where it ties them."""
    eos_token_id: int
    pad_token_id: int
    decoder_start_token_id: int

    @property
    def inner(self) -> int:
        """Width of all attention heads together."""
        return self.heads * self.d_kv

    @classmethod
    def read(cls, model_dir: Path) -> Self:
        """Read `model_dir/config.json`. Raises EngineError naming a missing or unsupported entry."""
        path = model_dir / "config.json"
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
            feed_forward = config.get("feed_forward_proj", "relu")
            if feed_forward != "relu":
                raise EngineError(
                    f"{path}: feed_forward_proj is {feed_forward!r}; the engines know relu (GODEL, T5 v1.0)"
                )
            tied = config.get("tie_word_embeddings") is not False
            return cls(
                d_model=config["d_model"],
                d_kv=config["d_kv"],
                d_ff=config["d_ff"],
                heads=config["num_heads"],
                encoder_layers=config["num_layers"],
                decoder_layers=config.get("num_decoder_layers") or config["num_layers"],
                vocabulary=config["vocab_size"],
                buckets=config.get("relative_attention_num_buckets", 32),
                max_distance=config.get("relative_attention_max_distance", 128),
                epsilon=config.get("layer_norm_epsilon", 1e-6),
                scale_output=config.get("scale_decoder_outputs", tied),
                eos_token_id=config["eos_token_id"],
                pad_token_id=config["pad_token_id"],
                decoder_start_token_id=config["decoder_start_token_id"],
            )
        except (OSError, ValueError) as error:
            raise EngineError(f"{path} cannot be read: {error}") from error
        except KeyError as error:
            raise EngineError(f"{path} lacks {error.args[0]}: is this a T5 checkpoint?") from error


def relative_bucket(distance: int, *, bidirectional: bool, buckets: int, max_distance: int) -> int:
    """Return the bucket of `distance` = key position - query position.

    Half of the buckets are for exact distances, half for logarithmically wider ranges up to `max_distance`
    (Raffel et al. 2020, section 2.1; mesh_tensorflow/transformer/transformer_layers.py).
    """
    offset = 0
    if bidirectional:
        buckets //= 2
        offset = buckets if distance > 0 else 0
        distance = abs(distance)
    else:
        distance = max(-distance, 0)
    exact = buckets // 2
    if distance < exact:
        return offset + distance
    wide = exact + int(math.log(distance / exact) / math.log(max_distance / exact) * (buckets - exact))
    return offset + min(wide, buckets - 1)
