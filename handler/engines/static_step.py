"""A decoder step whose shapes never change, so that a GPU can replay it as CUDA graphs.

A T5 decoder step is hundreds of kernels of a few microseconds: launched one by one, the launches cost more than
the work. A graph is launched whole, but only over the same addresses and shapes. Hence every slot has its place in
static buffers, and what differs from step to step (tokens, positions, prompt lengths) is read on the device.

What is promised of a slot's bits, and on what grounds:

- Row r is slot r, and every matrix product has `slots` rows, used or not: one shape, so one kernel, in which a row's
  sums do not read the other rows. A GPU reads the same weights for 64 rows as for one; the idle rows cost little.
- Attention, whose cost does grow, runs over a `Bucket`: the first rows, and the first places of the caches. PyTorch's
  memory-efficient kernel is asked for on CUDA: it gives each row and head a program of its own that goes through the
  keys in order by blocks of one size, and a masked key adds exactly zero, so a larger bucket should leave the bits
  as they are. This rests on the kernel's construction; `tests/handler/test_static_step.py` tries it where a GPU is.
- A request answered in another slot stands in another row of the products. That its bits are the same there too
  holds for kernels that sum all rows in one order; it is not enforced.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import embedding, linear, pad, scaled_dot_product_attention

from handler.engines.base import EngineError
from handler.engines.t5_geometry import T5Geometry
from handler.engines.t5_layers import add_linear, feed_forward, root_mean_square_norm
from handler.engines.torch_weights import T5Weights, bias_by_distance

PLACES: Final = 16
"""Caches hold a multiple of this many tokens: masks must be so aligned for the memory-efficient kernel."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """What one graph is captured for: attention over so many slots, prompt tokens and answer tokens."""

    rows: int
    prompt: int
    answer: int


class StaticStep:
    """The decoder of `weights` for `slots` requests. All buffers are public; only this class writes them.

    state: (3, slots) int64, each slot's token, its position and its prompt's length.
    self_cache: (layers, 2, slots, heads, answer places, d_kv); cross_cache the same with prompt places.
    logits: (slots, vocabulary) float32.
    """

    def __init__(
        self, geometry: T5Geometry, weights: T5Weights, *, slots: int, max_prompt_tokens: int, max_new_tokens: int
    ) -> None:
        """Allocate the buffers and, on CUDA, capture all graphs. Raises EngineError where the GPU cannot hold them."""
        self._geometry, self._weights = geometry, weights
        self._device, dtype = weights.embedding.device, weights.embedding.dtype
        prompt_places = _whole_places(max_prompt_tokens)
        # At least one place beyond the answer: rows that no request uses write there.
        answer_places = _whole_places(max_new_tokens + 1)
        self._idle = torch.tensor([geometry.pad_token_id, answer_places - 1, 1])[:, None]
        on_gpu = self._device.type == "cuda"
        if on_gpu:
            size = cache_bytes(geometry, slots, prompt_places + answer_places, dtype)
            free = torch.cuda.mem_get_info(self._device)[0]
            if size > free:
                raise EngineError(
                    f"{slots} slots of {max_prompt_tokens} + {max_new_tokens} tokens need {size / 2**30:.1f} GiB of"
                    f" caches, and {self._device} has {free / 2**30:.1f} GiB free: use fewer slots or shorter prompts"
                )
        # Zeros: a masked place counts for nothing only while it holds a finite number.
        caches = geometry.decoder_layers, 2, slots, geometry.heads
        self.self_cache = torch.zeros(*caches, answer_places, geometry.d_kv, dtype=dtype, device=self._device)
        self.cross_cache = torch.zeros(*caches, prompt_places, geometry.d_kv, dtype=dtype, device=self._device)
        self.logits = torch.zeros(slots, geometry.vocabulary, device=self._device)
        self._mixed = torch.zeros(slots, geometry.inner, dtype=dtype, device=self._device)
        self._host_state = torch.empty(3, slots, dtype=torch.int64, pin_memory=on_gpu)
        self._host_state.copy_(self._idle)
        self._host_logits = torch.empty(slots, geometry.vocabulary, pin_memory=on_gpu)
        self.state = self._host_state.to(self._device, copy=True)
        self._bias = _bias_by_position(weights.decoder_bias, geometry, answer_places)
        self._rows = _ladder(1, slots)
        self._prompts, self._answers = _ladder(128, prompt_places), _ladder(64, answer_places)
        self._graphs: dict[Bucket, torch.cuda.CUDAGraph] = {}
        if on_gpu:
            self._pool = torch.cuda.graph_pool_handle()
            for rows, prompt, answer in product(self._rows[::-1], self._prompts[::-1], self._answers[::-1]):
                self._replay(Bucket(rows, prompt, answer))  # the largest first: the others fit into its memory

    @torch.inference_mode()
    def keep_prompt(self, slot: int, cross: Tensor) -> Tensor:
        """Copy a prompt's keys and values, shape (layers, 2, heads, prompt, d_kv), to `slot`; return where they are.

        Whatever the slot's last request left is cleared: were it not finite, no mask would hide it.
        """
        length = cross.shape[3]
        place = self.cross_cache[:, :, slot]
        place[:, :, :, length:] = 0
        place[:, :, :, :length] = cross
        self.self_cache[:, :, slot] = 0
        return place[:, :, :, :length]

    @torch.inference_mode()
    def __call__(
        self, slots: Sequence[int], tokens: Sequence[int], positions: Sequence[int], prompt_lengths: Sequence[int]
    ) -> NDArray[np.float32]:
        """Feed `tokens[i]` at `positions[i]` to `slots[i]`; return a new array, shape (len(slots), vocabulary)."""
        chosen = list(slots)
        self._host_state.copy_(self._idle)
        self._host_state[:, chosen] = torch.tensor([list(tokens), list(positions), list(prompt_lengths)])
        self.state.copy_(self._host_state, non_blocking=True)
        self._replay(self.bucket(max(slots) + 1, max(prompt_lengths), max(positions) + 1))
        used = self._host_logits[: max(slots) + 1]
        used.copy_(self.logits[: len(used)], non_blocking=True)
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()
        result: NDArray[np.float32] = used.numpy()[chosen]
        return result

    def bucket(self, rows: int, prompt: int, answer: int) -> Bucket:
        """Return the least bucket that holds so many rows, prompt tokens and answer tokens."""
        wanted = ((self._rows, rows), (self._prompts, prompt), (self._answers, answer))
        return Bucket(*(next(size for size in ladder if size >= least) for ladder, least in wanted))

    def forward(self, bucket: Bucket) -> None:
        """Read `state`, write the step's keys and values to `self_cache` and its result to `logits`.

        Nothing here depends on data but through tensors: no branch, no size, no transfer. Run twice, it gives the
        same. The logits of rows beyond the bucket, and of those that no request uses, mean nothing.
        """
        geometry, weights, rows = self._geometry, self._weights, bucket.rows
        tokens, positions, prompt_lengths = self.state.unbind(0)
        place = positions[:rows].view(1, rows, 1, 1, 1).expand(2, rows, geometry.heads, 1, geometry.d_kv)
        self_mask = self._bias.index_select(0, positions[:rows])[:, :, None, : bucket.answer]
        beyond = torch.arange(bucket.prompt, device=self._device) >= prompt_lengths[:rows, None, None, None]
        cross_mask = torch.zeros_like(beyond, dtype=self_mask.dtype).masked_fill(beyond, -torch.inf)
        hidden = embedding(tokens, weights.embedding)
        for layer, (attention, cross, inner) in enumerate(weights.decoder):
            projected = linear(self._norm(hidden, attention.norm), attention.query_key_value)[:rows]
            parts = projected.view(rows, 3, geometry.heads, 1, geometry.d_kv).transpose(0, 1)
            cache = self.self_cache[layer, :, :rows]
            cache.scatter_(3, place, parts[1:])
            mixed = self._attend(parts[0], cache[:, :, :, : bucket.answer], self_mask)
            hidden = add_linear(hidden, mixed, attention.output)
            projected = linear(self._norm(hidden, cross.norm), cross.query)[:rows]
            query = projected.view(rows, geometry.heads, 1, geometry.d_kv)
            mixed = self._attend(query, self.cross_cache[layer, :, :rows, :, : bucket.prompt], cross_mask)
            hidden = add_linear(hidden, mixed, cross.output)
            hidden = feed_forward(hidden, inner, geometry.epsilon)
        hidden = self._norm(hidden, weights.decoder_norm)
        if geometry.scale_output:
            hidden = hidden * geometry.d_model**-0.5
        self.logits.copy_(linear(hidden, weights.head))

    def _attend(self, query: Tensor, cache: Tensor, mask: Tensor) -> Tensor:
        """Return attention's result, shape (slots, inner): beyond the query's rows it is what was there before."""
        mixed = scaled_dot_product_attention(query, cache[0], cache[1], attn_mask=mask, scale=1.0)
        self._mixed[: len(query)] = mixed.reshape(len(query), -1)
        return self._mixed

    def _norm(self, hidden: Tensor, weight: Tensor) -> Tensor:
        return root_mean_square_norm(hidden, weight, self._geometry.epsilon)

    @torch.inference_mode()
    def _replay(self, bucket: Bucket) -> None:
        """Run `forward`: as it is on a CPU, as a graph on CUDA, captured at its first use."""
        if self._device.type != "cuda":
            self.forward(bucket)
            return
        with torch.cuda.device(self._device):
            if bucket not in self._graphs:
                self._graphs[bucket] = self._capture(bucket)
            self._graphs[bucket].replay()

    def _capture(self, bucket: Bucket) -> torch.cuda.CUDAGraph:
        """Warm up on a side stream, as PyTorch asks, and capture. The graphs share memory: one runs at a time."""
        side: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        main = torch.cuda.current_stream()
        graph = torch.cuda.CUDAGraph()
        with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
            side.wait_stream(main)
            with torch.cuda.stream(side):
                self.forward(bucket)
            main.wait_stream(side)
            with torch.cuda.graph(graph, pool=self._pool):
                self.forward(bucket)
        return graph


def cache_bytes(geometry: T5Geometry, slots: int, tokens: int, dtype: torch.dtype) -> int:
    """Return the size of both caches: slots * layers * 2 * heads * d_kv * tokens * bytes of a number.

    `tokens` is prompt and answer places together. T5-large in bf16 with 64 slots of 512 + 272 places takes 4.6 GiB:
    64 * 24 * 2 * 16 * 64 * 784 * 2 bytes.
    """
    return slots * geometry.decoder_layers * 2 * geometry.inner * tokens * dtype.itemsize


def aligned(mask: Tensor) -> Tensor:
    """Return `mask` with its rows in memory as the memory-efficient kernel wants them: it would copy it each time."""
    tokens = mask.shape[-1]
    return pad(mask, (0, _whole_places(tokens) - tokens))[..., :tokens]


def _whole_places(tokens: int) -> int:
    return -(-tokens // PLACES) * PLACES


def _ladder(first: int, most: int) -> list[int]:
    """Return first, 4 * first, 16 * first, ... below `most`, and `most`: few graphs, and work within four times."""
    sizes = []
    while first < most:
        sizes.append(first)
        first *= 4
    return [*sizes, most]


def _bias_by_position(by_bucket: Tensor, geometry: T5Geometry, places: int) -> Tensor:
    """Return the decoder's bias for a query at each position, shape (places, heads, places), -inf for later keys."""
    by_distance = bias_by_distance(by_bucket, geometry, range(1 - places, 1), bidirectional=False)
    at = torch.arange(places, device=by_bucket.device)
    distance = at[None, :] - at[:, None]
    bias = by_distance[:, (distance + places - 1).clamp(max=places - 1)]
    return bias.masked_fill(distance > 0, -torch.inf).transpose(0, 1).contiguous()
