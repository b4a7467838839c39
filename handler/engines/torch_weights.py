"""A T5 checkpoint's tensors, by their place in the model instead of by name; for the PyTorch engine."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from handler.engines.base import EngineError
from handler.engines.t5_geometry import T5Geometry, relative_bucket


@dataclass(frozen=True, slots=True)
class SelfAttention:
    """Query, key and value stand in one matrix of shape (3 * inner, d_model)."""

    norm: Tensor
    query_key_value: Tensor
    output: Tensor


@dataclass(frozen=True, slots=True)
class CrossAttention:
    """Keys and values are not here: all layers' stand in `T5Weights.cross_key_value`."""

    norm: Tensor
    query: Tensor
    output: Tensor


@dataclass(frozen=True, slots=True)
class FeedForward:
    """The two matrices around the relu."""

    norm: Tensor
    inner: Tensor
    output: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class T5Weights:
    """All tensors of a T5; `cross_key_value` has shape (layers * 2 * inner, d_model), biases (buckets, heads)."""

    embedding: Tensor
    head: Tensor
    encoder: list[tuple[SelfAttention, FeedForward]]
    encoder_norm: Tensor
    encoder_bias: Tensor
    cross_key_value: Tensor
    decoder: list[tuple[SelfAttention, CrossAttention, FeedForward]]
    decoder_norm: Tensor
    decoder_bias: Tensor


def read_weights(model_dir: Path, geometry: T5Geometry, dtype: torch.dtype, device: torch.device) -> T5Weights:
    """Read `model_dir/model.safetensors`. Raises EngineError when it cannot be read or lacks a tensor."""
    path = model_dir / "model.safetensors"
    try:
        tensors = {name: tensor.to(device, dtype) for name, tensor in load_file(path).items()}
        return _place(tensors, geometry)
    except (OSError, SafetensorError) as error:
        raise EngineError(f"{path} cannot be read as safetensors: {error}") from error
    except KeyError as error:
        raise EngineError(f"{path} lacks {error.args[0]}: config.json and weights disagree") from error


def bias_by_distance(by_bucket: Tensor, geometry: T5Geometry, distances: range, *, bidirectional: bool) -> Tensor:
    """Turn a bias by bucket, shape (buckets, heads), into one by distance, shape (heads, len(distances))."""
    buckets = [
        relative_bucket(
            distance, bidirectional=bidirectional, buckets=geometry.buckets, max_distance=geometry.max_distance
        )
        for distance in distances
    ]
    return by_bucket[buckets].T.contiguous()


def _place(tensors: dict[str, Tensor], geometry: T5Geometry) -> T5Weights:
    take = tensors.pop

    def self_attention(block: str) -> SelfAttention:
        name = f"{block}.layer.0.SelfAttention"
        fused = torch.cat([take(f"{name}.{part}.weight") for part in "qkv"])
        return SelfAttention(take(f"{block}.layer.0.layer_norm.weight"), fused, take(f"{name}.o.weight"))

    def cross_attention(block: str) -> CrossAttention:
        name = f"{block}.layer.1.EncDecAttention"
        norm = take(f"{block}.layer.1.layer_norm.weight")
        return CrossAttention(norm, take(f"{name}.q.weight"), take(f"{name}.o.weight"))

    def feed_forward(layer: str) -> FeedForward:
        name = f"{layer}.DenseReluDense"
        norm = take(f"{layer}.layer_norm.weight")
        return FeedForward(norm, take(f"{name}.wi.weight"), take(f"{name}.wo.weight"))

    encoder = [f"encoder.block.{i}" for i in range(geometry.encoder_layers)]
    decoder = [f"decoder.block.{i}" for i in range(geometry.decoder_layers)]
    bias = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    embedding = take("shared.weight")
    return T5Weights(
        embedding=embedding,
        head=tensors.pop("lm_head.weight", embedding),
        encoder=[(self_attention(block), feed_forward(f"{block}.layer.1")) for block in encoder],
        encoder_norm=take("encoder.final_layer_norm.weight"),
        encoder_bias=take(f"encoder.{bias}"),
        cross_key_value=torch.cat(
            [take(f"{block}.layer.1.EncDecAttention.{part}.weight") for block in decoder for part in "kv"]
        ),
        decoder=[
            (self_attention(block), cross_attention(block), feed_forward(f"{block}.layer.2")) for block in decoder
        ],
        decoder_norm=take("decoder.final_layer_norm.weight"),
        decoder_bias=take(f"decoder.{bias}"),
    )
