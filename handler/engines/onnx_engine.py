"""The CPU engine: T5 in ONNX Runtime, 8-bit encoder, 8- or 4-bit decoder, caches that stay where they are.

How it keeps the port's promise that a slot's logits depend on nothing but its own request: prompts are encoded
one at a time at their exact length; attention runs over each row's own length; the decoder's products quantise
activations within a row. Whether those of 4 bits give a row the same bits in any company depends on the processor,
so it is tried when the engine is loaded: where they do not, every step is filled up to all slots, and drafts of several
tokens, which are only worth it while they change nothing, are off.

Live slots lie in the first rows of the caches, so that a step is one call over arrays nobody copies. A row that
leaves is filled by the last one.
"""

import contextlib
import logging
import math
import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from handler.engines.base import EngineDescription, EngineError
from handler.engines.cores import CPUINFO, instruction_sets, usable_cores
from handler.engines.heap import keep_freed_memory
from handler.engines.t5_geometry import T5Geometry, relative_bucket

logger = logging.getLogger(__name__)

PRECISION_KEY: Final = "precision"
"""Names the precision in the graphs' metadata."""

DRAFT_TOKENS: Final = 7
"""Tokens fed at once beyond the one that is due; more pay only where nearly all are accepted."""

_LEAST_PADDED: Final = 2
"""Tokens that self-attention computes at least. ONNX Runtime multiplies one row in another order than several, and a
token is to give the same bits whether it comes alone or in a draft. What follows the last real one is overwritten."""


@dataclass(slots=True)
class _Row:
    """A live slot: which, how long its prompt is, how many tokens it was fed."""

    slot: int
    prompt: int
    position: int = 0


class OnnxEngine:
    """A folder written by `training.onnx_export` as an `Engine`."""

    def __init__(
        self,
        model_dir: Path,
        *,
        slots: int,
        precision: str = "auto",
        device: str = "cpu",
        gpu_id: int | None = None,  # noqa: ARG002 - of the options all engines take
        threads: int | None = None,
        max_prompt_tokens: int = 512,
        max_new_tokens: int = 256,
    ) -> None:
        """Load the model. Raises EngineError for a bad folder or another precision than it was exported in.

        `device` other than "cpu" runs on the CPU and says so; `gpu_id` is not looked at. `precision` "auto"
        takes what the folder holds. `threads` None takes every usable core. Subnormal numbers are zeros from
        then on, in threads of the engine and in that which made the process's first.
        """
        device_note = None
        if device != "cpu":
            device_note = "engine onnx is for CPUs: running on the CPU; `make archive ENGINE=torch` is for a GPU"
            logger.warning(device_note)
        self._geometry = geometry = T5Geometry.read(model_dir)
        keep_freed_memory()
        self._encoder = _session(model_dir / "encoder.onnx", threads, arena=False)
        self._decoder = _session(model_dir / "decoder.onnx", threads, arena=True)
        held = self._decoder.get_modelmeta().custom_metadata_map.get(PRECISION_KEY, "unknown")
        if precision not in ("auto", held):
            raise EngineError(f"{model_dir} was exported in {held}, not {precision}; export it again")
        self._embedding = _table(model_dir / "embedding.npy", "r")
        biases = [_table(model_dir / f"{part}_bias.npy", None) for part in ("encoder", "decoder")]
        self.description = EngineDescription(
            engine="onnx",
            precision=held,
            device="cpu",
            device_note=device_note,
            slots=slots,
            max_prompt_tokens=max_prompt_tokens,
            max_new_tokens=max_new_tokens,
            max_beams=1,
            draft_tokens=DRAFT_TOKENS,
            vocabulary=geometry.vocabulary,
            eos_token_id=geometry.eos_token_id,
            decoder_start_token_id=geometry.decoder_start_token_id,
        )
        self._rows: list[_Row] = []
        capacity = max_new_tokens + DRAFT_TOKENS + _LEAST_PADDED
        heads, width, caches = geometry.heads, geometry.d_kv, 2 * geometry.decoder_layers
        self._cross = _untouched((caches, slots, heads, max_prompt_tokens, width), np.int8)
        self._self = _untouched((caches, slots, heads, capacity, width), np.float32)
        self._encoder_bias = _by_distance(
            biases[0], geometry, range(1 - max_prompt_tokens, max_prompt_tokens), bidirectional=True
        )
        self._decoder_bias = _by_distance(biases[1], geometry, range(1 - capacity, 1), bidirectional=False)
        self._calls: dict[tuple[int, int], _Call] = {}
        self._least_rows = 1
        self._try_company()
        logger.info("onnx engine: %s, steps of at least %d rows", held, self._least_rows)

    def encode(self, slot: int, prompt_ids: Sequence[int]) -> None:
        """Read a prompt into `slot`."""
        if any(row.slot == slot for row in self._rows):
            raise EngineError(f"slot {slot} is live: release it first")
        length = len(prompt_ids)
        if not 0 < length <= self.description.max_prompt_tokens:
            raise EngineError(f"a prompt has 1 to {self.description.max_prompt_tokens} tokens, not {length}")
        # Query i sees key j at distance j - i: each row of the window starts one distance earlier.
        furthest = self.description.max_prompt_tokens - 1
        windows = np.lib.stride_tricks.sliding_window_view(self._encoder_bias, length, axis=1)
        bias = windows[:, furthest - length + 1 : furthest + 1][:, ::-1]
        layers = self._encoder.run(
            None, {"embeddings": self._embed(prompt_ids)[None], "bias": np.ascontiguousarray(bias)[None]}
        )
        for layer, keys_and_values in enumerate(layers):
            self._cross[2 * layer : 2 * layer + 2, len(self._rows), :, :length] = keys_and_values
        self._rows.append(_Row(slot, length))

    def step(self, slots: Sequence[int], tokens: Sequence[int]) -> NDArray[np.float32]:
        """Feed one token to each slot; return float32 logits, shape (len(slots), vocabulary)."""
        fed = dict(zip(slots, ([token] for token in tokens), strict=True))
        logits: NDArray[np.float32] = self._feed(fed)[:, 0]
        places = {row.slot: place for place, row in enumerate(self._rows)}
        if [places[slot] for slot in slots] == list(range(len(slots))):
            first: NDArray[np.float32] = logits[: len(slots)]
            return first
        picked: NDArray[np.float32] = logits[np.array([places[slot] for slot in slots])]
        return picked

    def extend(self, slot: int, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Feed several tokens to the only live slot; return their logits, shape (len(tokens), vocabulary)."""
        if [row.slot for row in self._rows] != [slot]:
            raise EngineError("several tokens at once are for a slot that is alone")
        if self._least_rows > 1:  # the rest of a filled-up step has no draft
            return np.concatenate([self.step([slot], [token]).copy() for token in tokens])
        logits: NDArray[np.float32] = self._feed({slot: tokens})[0]
        return logits

    def rewind(self, slot: int, count: int) -> None:
        """Forget the last `count` tokens fed to `slot`."""
        (row,) = [row for row in self._rows if row.slot == slot]
        row.position -= count

    def release(self, slot: int) -> None:
        """Free `slot`; the last row takes its place in the caches."""
        place = next((place for place, row in enumerate(self._rows) if row.slot == slot), None)
        if place is None:
            return
        last = self._rows.pop()
        if last.slot != slot:
            self._cross[:, place, :, : last.prompt] = self._cross[:, len(self._rows), :, : last.prompt]
            self._self[:, place, :, : last.position] = self._self[:, len(self._rows), :, : last.position]
            self._rows[place] = last

    def _feed(self, fed: Mapping[int, Sequence[int]]) -> NDArray[np.float32]:
        """Feed each slot its tokens, all as many; return logits, shape (rows, tokens, vocabulary), idle rows too."""
        tokens = len(next(iter(fed.values())))
        call = self._call(max(len(self._rows), self._least_rows), tokens)
        ids = np.zeros((len(call.fed), tokens), np.intp)
        call.fed[:] = 0
        for place, row in enumerate(self._rows):
            call.cross_last[place] = row.prompt - 1
            call.self_last[place] = max(row.position - 1, 0)
            if (given := fed.get(row.slot)) is None:
                continue
            end = row.position + tokens
            if end > self._self.shape[3] - _LEAST_PADDED:
                raise EngineError(f"slot {row.slot} is full: {row.position} tokens")
            ids[place], call.fed[place] = given, call.padded
            call.self_last[place] = row.position + call.padded - 1
            for query in range(tokens):
                seen = row.position + query + 1
                call.bias[place, :, query, :seen] = self._decoder_bias[:, -seen:]
        call.cross_longest[()] = call.cross_last.max() + 1
        call.embeddings[:] = self._embed(ids)
        self._decoder.run_with_iobinding(call.binding)
        for row in self._rows:
            row.position += tokens if row.slot in fed else 0
        return call.logits

    def _embed(self, ids: Sequence[int] | NDArray[np.intp]) -> NDArray[np.float32]:
        rows: NDArray[np.float32] = self._embedding[np.asarray(ids)].astype(np.float32)
        return rows

    def _call(self, rows: int, tokens: int) -> "_Call":
        if (rows, tokens) not in self._calls:
            self._calls[rows, tokens] = _Call(self._decoder, self._geometry, self._self, self._cross, rows, tokens)
        return self._calls[rows, tokens]

    def _try_company(self) -> None:
        """Find out whether rows keep their bits in company and in a draft, on this machine."""
        prompt, count = list(range(min(self._geometry.vocabulary, 8))), 1 + DRAFT_TOKENS
        slots, tokens = range(self.description.slots), [token % self._geometry.vocabulary for token in range(count)]
        with self._scratch(prompt, 1):
            alone = [self.step([0], [token])[0].copy() for token in tokens]
        with self._scratch(prompt, 1):
            drafted = self._feed({0: tokens})[0].copy()
        with self._scratch(prompt, len(slots)):
            together = [
                self.step(slots, [tokens[(slot + turn) % count] for slot in slots])[0].copy() for turn in range(count)
            ]
        if not np.array_equal(alone, together):
            logger.warning(
                "rows of a product depend on their number on this processor, in %s: each step is filled up to all"
                " slots, which answers alike but slower",
                self.description.precision,
            )
            self._least_rows = len(slots)
        if not np.array_equal(alone, drafted) or self._least_rows > 1:
            self.description = replace(self.description, draft_tokens=0)

    @contextlib.contextmanager
    def _scratch(self, prompt: Sequence[int], slots: int) -> Iterator[None]:
        for slot in range(slots):
            self.encode(slot, prompt)
        yield
        for slot in range(slots):
            self.release(slot)


class _Call:
    """One shape of a decoder step: arrays to fill, bound once to the graph's inputs and outputs.

    The caches are bound as input and output alike: the graph writes the new keys and values in their place.
    """

    def __init__(
        self,
        decoder: onnxruntime.InferenceSession,
        geometry: T5Geometry,
        self_cache: NDArray[np.float32],
        cross_cache: NDArray[np.int8],
        rows: int,
        tokens: int,
    ) -> None:
        self.padded = padded = max(tokens, _LEAST_PADDED)
        capacity = self_cache.shape[3]
        self.embeddings = np.zeros((rows, tokens, geometry.d_model), np.float32)
        self.bias = np.zeros((rows, geometry.heads, padded, capacity), np.float32)
        self.fed, self.self_last, self.cross_last = np.zeros((3, rows), np.int32)
        """Tokens fed to each row, padding too, and the last position of its answer and of its prompt that they see."""
        self.cross_longest = np.zeros((), np.int32)
        self.logits = np.zeros((rows, tokens, geometry.vocabulary), np.float32)
        self.binding = decoder.io_binding()
        inputs: dict[str, NDArray[Any]] = {
            "embeddings": self.embeddings,
            "bias": self.bias,
            "fed": self.fed,
            "self_last": self.self_last,
            "self_capacity": np.array(capacity, np.int32),
            "cross_last": self.cross_last,
            "cross_longest": self.cross_longest,
            "padding": np.array([0, 0, 0, 0, padded - tokens, 0], np.int64),
            "tokens": np.array([tokens], np.int64),
        }
        self._kept: list[Any] = []
        for name, array in inputs.items():
            self.binding.bind_ortvalue_input(name, self._shared(array))
        for kind, cache in (("self", self_cache), ("cross", cross_cache)):
            for layer in range(geometry.decoder_layers):
                for part, name in enumerate(("key", "value")):
                    value = self._shared(cache[2 * layer + part, :rows])
                    self.binding.bind_ortvalue_input(f"{kind}_{name}_{layer}", value)
                    self.binding.bind_ortvalue_output(f"new_{kind}_{name}_{layer}", value)
        self.binding.bind_ortvalue_output("logits", self._shared(self.logits))

    def _shared(self, array: NDArray[Any]) -> Any:
        """Return ONNX Runtime's view of `array`, which lives as long as this."""
        if not array.flags.c_contiguous:
            raise AssertionError("only a contiguous array can be shared")
        value = onnxruntime.OrtValue.ortvalue_from_numpy(array)
        self._kept.append((array, value))
        return value


def sums_bytes_exactly(cpuinfo: Path = CPUINFO) -> bool:
    """Return whether the processor adds up 8-bit products in 32 bits (VNNI); False where Linux does not tell."""
    return not instruction_sets(cpuinfo).isdisjoint({"avx512_vnni", "avx_vnni"})


def _session(path: Path, threads: int | None, *, arena: bool) -> onnxruntime.InferenceSession:
    """Load a graph. An arena saves a step a tenth of its time, and keeps the most memory that any prompt needed.

    Without one, memory is not planned ahead either: a plan is one piece, so large that its pages are new each time.
    """
    onnxruntime.disable_telemetry_events()  # on by default in some builds
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or usable_cores()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = options.enable_mem_pattern = arena
    # Attention weights of e^-90 are no zeros yet: subnormal numbers, with which processors multiply in microcode.
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    if not sums_bytes_exactly():
        # Sums of two 8-bit products would be cut off at 16 bits: wrong sums for a fifth less time. Where there is VNNI
        # the same option makes right sums, which there are already, at a fourth of their speed.
        options.add_session_config_entry("session.x64quantprecision", "1")
    # Threads that wait by spinning would take the cores from the other session, TorchServe and the gateway.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises a kind of its own for each status
        raise EngineError(f"{path} cannot be loaded: {' '.join(str(error).split())[:300]}") from error


def _table(path: Path, mode: Any) -> NDArray[Any]:
    try:
        table: NDArray[Any] = np.load(path, mmap_mode=mode)
    except (OSError, ValueError) as error:
        raise EngineError(f"{path} cannot be read: {error}") from error
    return table


def _untouched(shape: tuple[int, ...], kind: type[np.generic]) -> NDArray[Any]:
    """Return an array whose pages cost no memory until they are written to: a cache grows with what it holds.

    NumPy's own arrays of this size lie in huge pages, of which one byte costs two megabytes.
    """
    return np.frombuffer(mmap.mmap(-1, math.prod(shape) * np.dtype(kind).itemsize), kind).reshape(shape)


def _by_distance(
    by_bucket: NDArray[np.float32], geometry: T5Geometry, distances: range, *, bidirectional: bool
) -> NDArray[np.float32]:
    """Turn a bias by bucket, shape (buckets, heads), into one by distance, shape (heads, len(distances))."""
    buckets = [
        relative_bucket(
            distance, bidirectional=bidirectional, buckets=geometry.buckets, max_distance=geometry.max_distance
        )
        for distance in distances
    ]
    return np.ascontiguousarray(by_bucket[buckets].T)
