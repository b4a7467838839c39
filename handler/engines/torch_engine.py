"""The reference engine: T5 in plain PyTorch with static key/value caches; CPU (fp32, bf16) and GPU (bf16, fp32).

How it keeps the port's promise that a slot's logits depend on nothing but its own request:
prompts are encoded one at a time at their exact length. On a CPU, attention runs slot by slot over exact lengths,
and the matrix products all slots share run over a multiple of `_row_block` rows, a number found at load for
which this machine's products give each row the same bits whatever the other rows hold.
On a GPU, `static_step` decodes, and says what is promised there.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import embedding, linear, scaled_dot_product_attention

from handler.engines.base import EngineDescription, EngineError
from handler.engines.cores import usable_cores
from handler.engines.row_blocks import find_row_block
from handler.engines.static_step import StaticStep, aligned
from handler.engines.t5_geometry import T5Geometry
from handler.engines.t5_layers import add_linear, feed_forward, root_mean_square_norm
from handler.engines.torch_weights import bias_by_distance, read_weights

logger = logging.getLogger(__name__)

PRECISIONS: Final = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""fp16 is left out on purpose: T5's activations leave its range and give NaN."""


@dataclass(slots=True)
class _Slot:
    """What a live slot holds: cross keys and values, shape (layers, 2, heads, prompt, d_kv), and its position."""

    cross: Tensor
    position: int = 0


class TorchEngine:
    """A T5 checkpoint folder (`config.json`, `model.safetensors`) as an `Engine`."""

    def __init__(
        self,
        model_dir: Path,
        *,
        slots: int,
        precision: str = "auto",
        device: str = "cpu",
        gpu_id: int | None = None,
        threads: int | None = None,
        max_prompt_tokens: int = 512,
        max_new_tokens: int = 256,
    ) -> None:
        """Load the model. Raises EngineError for a bad folder, geometry or device.

        `device` is "cpu" or "gpu"; without a usable GPU the engine runs on the CPU and says so in its
        description. `precision` is one of PRECISIONS, or "auto": bf16 where the device multiplies in it,
        twice as fast there, and fp32 elsewhere. `threads` None takes every usable core.
        """
        self._device, device_note = _choose_device(device, gpu_id)
        if precision == "auto":
            precision = "bf16" if multiplies_in_bf16(self._device) else "fp32"
        torch.set_num_threads(threads or usable_cores())
        self._geometry = geometry = T5Geometry.read(model_dir)
        self._weights = weights = read_weights(model_dir, geometry, PRECISIONS[precision], self._device)
        self.description = EngineDescription(
            engine="torch",
            precision=precision,
            device=str(self._device),
            device_note=device_note,
            slots=slots,
            max_prompt_tokens=max_prompt_tokens,
            max_new_tokens=max_new_tokens,
            max_beams=1,
            draft_tokens=0,  # attention runs slot by slot and token by token: a draft would save nothing
            vocabulary=geometry.vocabulary,
            eos_token_id=geometry.eos_token_id,
            decoder_start_token_id=geometry.decoder_start_token_id,
        )
        self._slots: dict[int, _Slot] = {}
        encoder_distances = range(1 - max_prompt_tokens, max_prompt_tokens)
        self._encoder_bias = bias_by_distance(weights.encoder_bias, geometry, encoder_distances, bidirectional=True)
        self._static: StaticStep | None = None
        if decodes_statically(self._device):
            self._static = StaticStep(
                geometry, weights, slots=slots, max_prompt_tokens=max_prompt_tokens, max_new_tokens=max_new_tokens
            )
            logger.info("torch engine: %s, %s, static steps", self._device, precision)
            return
        shape = (geometry.decoder_layers, slots, 2, geometry.heads, max_new_tokens, geometry.d_kv)
        # Untouched pages cost no memory: the cache grows with the answers, up to this shape.
        self._self_cache = torch.empty(shape, dtype=PRECISIONS[precision], device=self._device)
        decoder_distances = range(1 - max_new_tokens, 1)
        decoder_bias = bias_by_distance(weights.decoder_bias, geometry, decoder_distances, bidirectional=False)
        self._decoder_bias = decoder_bias[None, :, None]
        attention, cross, inner = weights.decoder[0]
        shared = [attention.query_key_value, attention.output, cross.query, cross.output]
        shared += [inner.inner, inner.output, weights.head]
        self._row_block = find_row_block(shared, slots)
        logger.info("torch engine: %s, %s, products of %d rows", self._device, precision, self._row_block)

    @torch.inference_mode()
    def encode(self, slot: int, prompt_ids: Sequence[int]) -> None:
        """Read a prompt into `slot`; its cross-attention keys and values are kept at their exact size."""
        if slot in self._slots:
            raise EngineError(f"slot {slot} is live: release it first")
        length = len(prompt_ids)
        if not 0 < length <= self.description.max_prompt_tokens:
            raise EngineError(f"a prompt has 1 to {self.description.max_prompt_tokens} tokens, not {length}")
        geometry = self._geometry
        hidden = embedding(torch.tensor(prompt_ids, device=self._device), self._weights.embedding)
        furthest = self._encoder_bias.shape[1] // 2
        distances = self._encoder_bias[:, furthest - length + 1 : furthest + length]
        # Query i sees key j at distance j - i: window i of the distances, counted from the end.
        bias = distances.unfold(1, length, 1).flip(1).unsqueeze(0)
        if self._static:
            bias = aligned(bias)
        for attention, inner in self._weights.encoder:
            normed = self._norm(hidden, attention.norm)
            query, key, value = self._heads(linear(normed, attention.query_key_value), 3)
            mixed = scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=1.0)
            hidden = add_linear(hidden, mixed[0].transpose(0, 1).reshape(length, -1), attention.output)
            hidden = feed_forward(hidden, inner, geometry.epsilon)
        hidden = self._norm(hidden, self._weights.encoder_norm)
        cross = linear(hidden, self._weights.cross_key_value)
        cross = cross.view(length, geometry.decoder_layers, 2, geometry.heads, geometry.d_kv)
        cross = cross.permute(1, 2, 3, 0, 4)
        self._slots[slot] = _Slot(cross=self._static.keep_prompt(slot, cross) if self._static else cross.contiguous())

    @torch.inference_mode()
    def step(self, slots: Sequence[int], tokens: Sequence[int]) -> NDArray[np.float32]:
        """Feed one token to each slot; return float32 logits, shape (len(slots), vocabulary)."""
        live = [self._slots[slot] for slot in slots]
        for slot, state in zip(slots, live, strict=True):
            if state.position >= self.description.max_new_tokens:
                raise EngineError(f"slot {slot} is full: {state.position} tokens")
        if self._static:
            positions, lengths = [state.position for state in live], [state.cross.shape[3] for state in live]
            logits = self._static(slots, tokens, positions, lengths)
        else:
            logits = self._step_exactly(slots, live, tokens)
        for state in live:
            state.position += 1
        return logits

    def _step_exactly(self, slots: Sequence[int], live: Sequence[_Slot], tokens: Sequence[int]) -> NDArray[np.float32]:
        rows = -(-len(slots) // self._row_block) * self._row_block
        ids = torch.tensor([*tokens, *[self._geometry.pad_token_id] * (rows - len(tokens))], device=self._device)
        hidden = embedding(ids, self._weights.embedding)
        for layer, (attention, cross, inner) in enumerate(self._weights.decoder):
            projected = linear(self._norm(hidden, attention.norm), attention.query_key_value)
            mixed = self._self_attention(layer, slots, live, projected)
            hidden = add_linear(hidden, mixed, attention.output)
            projected = linear(self._norm(hidden, cross.norm), cross.query)
            mixed = self._cross_attention(layer, live, projected)
            hidden = add_linear(hidden, mixed, cross.output)
            hidden = feed_forward(hidden, inner, self._geometry.epsilon)
        hidden = self._norm(hidden, self._weights.decoder_norm)
        if self._geometry.scale_output:
            hidden = hidden * self._geometry.d_model**-0.5
        logits = linear(hidden, self._weights.head)[: len(slots)]
        result: NDArray[np.float32] = logits.float().cpu().numpy()
        return result

    def extend(self, slot: int, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Feed several tokens to `slot`, one by one; return their logits, shape (len(tokens), vocabulary)."""
        return np.concatenate([self.step([slot], [token]) for token in tokens])

    def rewind(self, slot: int, count: int) -> None:
        """Forget the last `count` tokens fed to `slot`."""
        self._slots[slot].position -= count

    def cross_attention(self, slot: int) -> NDArray[np.float32]:
        """Return the keys and values of `slot`'s prompt, shape (layers, 2, heads, prompt, d_kv)."""
        keys_and_values: NDArray[np.float32] = self._slots[slot].cross.float().cpu().numpy()
        return keys_and_values

    def release(self, slot: int) -> None:
        """Free `slot` and the cross keys and values it held."""
        self._slots.pop(slot, None)

    def _self_attention(self, layer: int, slots: Sequence[int], live: Sequence[_Slot], projected: Tensor) -> Tensor:
        query, key, value = projected.view(len(projected), 3, self._geometry.heads, 1, -1).unbind(1)
        mixed = torch.zeros_like(query)
        for row, (slot, state) in enumerate(zip(slots, live, strict=True)):
            keys, values = self._self_cache[layer, slot]
            end = state.position + 1
            keys[:, state.position : end], values[:, state.position : end] = key[row], value[row]
            mixed[row] = scaled_dot_product_attention(
                query[row : row + 1],
                keys[None, :, :end],
                values[None, :, :end],
                attn_mask=self._decoder_bias[:, :, :, -end:],
                scale=1.0,
            )[0]
        return mixed.view(len(projected), -1)

    def _cross_attention(self, layer: int, live: Sequence[_Slot], projected: Tensor) -> Tensor:
        query = projected.view(len(projected), self._geometry.heads, 1, -1)
        mixed = torch.zeros_like(query)
        for row, state in enumerate(live):
            keys, values = state.cross[layer]
            mixed[row] = scaled_dot_product_attention(query[row : row + 1], keys[None], values[None], scale=1.0)[0]
        return mixed.view(len(projected), -1)

    def _norm(self, hidden: Tensor, weight: Tensor) -> Tensor:
        return root_mean_square_norm(hidden, weight, self._geometry.epsilon)

    def _heads(self, projected: Tensor, parts: int) -> tuple[Tensor, ...]:
        """Split (length, parts * heads * d_kv) into `parts` tensors of shape (1, heads, length, d_kv)."""
        split = projected.view(len(projected), parts, self._geometry.heads, self._geometry.d_kv)
        return split.permute(1, 2, 0, 3).unsqueeze(1).unbind(0)


def decodes_statically(device: torch.device) -> bool:
    """Whether the step is one of fixed shapes: that pays where it can be replayed as a graph."""
    return device.type == "cuda"


def multiplies_in_bf16(device: torch.device) -> bool:
    """Whether `device` has instructions for bf16 products; without them bf16 is slower than float32."""
    if device.type == "cuda":
        return True
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def _choose_device(device: str, gpu_id: int | None) -> tuple[torch.device, str | None]:
    """Return the device to run on, and why it is not the one asked for when it is not."""
    if device == "cpu":
        return torch.device("cpu"), None
    if device != "gpu":
        raise EngineError(f"device {device!r} is not known; use cpu or gpu")
    if not torch.cuda.is_available():
        note = "a GPU was asked for, but PyTorch sees none: running on the CPU"
    elif (gpu_id or 0) >= torch.cuda.device_count():
        note = f"GPU {gpu_id} was asked for, but there are {torch.cuda.device_count()}: running on the CPU"
    else:
        return torch.device("cuda", gpu_id or 0), None
    logger.warning(note)
    return torch.device("cpu"), note
