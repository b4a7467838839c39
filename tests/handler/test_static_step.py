"""The static step: the reference's numbers, rows that know nothing of each other, one graph for all data."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from handler.engines.base import EngineError
from handler.engines.static_step import Bucket, StaticStep, cache_bytes
from handler.engines.t5_geometry import T5Geometry
from handler.engines.torch_engine import TorchEngine
from handler.engines.torch_weights import read_weights

SLOTS, PROMPT, ANSWER = 6, 200, 90


def random_prompt(seed: int, length: int) -> list[int]:
    return [*np.random.default_rng(seed).integers(4, 94, length - 1).tolist(), 1]


PROMPTS = {slot: random_prompt(slot, length) for slot, length in enumerate((3, 130, 60, 200, 1, 128))}


def make_static(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> TorchEngine:
    """The engine as a GPU has it, its steps run eagerly here."""
    with monkeypatch.context() as patched:
        patched.setattr("handler.engines.torch_engine.decodes_statically", lambda _: True)
        return TorchEngine(
            checkpoint, slots=SLOTS, precision="fp32", max_prompt_tokens=PROMPT, max_new_tokens=ANSWER, threads=1
        )


@pytest.fixture
def static(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> TorchEngine:
    return make_static(checkpoint, monkeypatch)


@pytest.fixture
def exact(checkpoint: Path) -> TorchEngine:
    return TorchEngine(
        checkpoint, slots=SLOTS, precision="fp32", max_prompt_tokens=PROMPT, max_new_tokens=ANSWER, threads=1
    )


def step_of(checkpoint: Path) -> StaticStep:
    geometry = T5Geometry.read(checkpoint)
    weights = read_weights(checkpoint, geometry, torch.float32, torch.device("cpu"))
    return StaticStep(geometry, weights, slots=SLOTS, max_prompt_tokens=PROMPT, max_new_tokens=ANSWER)


def assert_same(actual: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    """To 1e-5 of the widest logit: the fixture's weights are wide, so its logits are."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * float(np.abs(expected).max()))


def test_static_logits_are_the_reference_s_while_slots_join_and_leave(static: TorchEngine, exact: TorchEngine) -> None:
    random = np.random.default_rng(5)
    joins, leaves = {0: [2, 5], 3: [0], 7: [4, 1], 60: [3, 5]}, {20: [5], 40: [0, 1]}
    live: list[int] = []
    for number in range(80):
        for slot in joins.get(number, []):
            prompt = PROMPTS[(slot + number) % SLOTS]
            static.encode(slot, prompt)
            exact.encode(slot, prompt)
            live.append(slot)
        for slot in leaves.get(number, []):
            static.release(slot)
            exact.release(slot)
            live.remove(slot)
        named = [slot for slot in random.permutation(live).tolist() if slot == 2 or random.random() < 0.8]
        tokens = random.integers(0, 94, len(named)).tolist()
        assert_same(static.step(named, tokens), exact.step(named, tokens))


def test_a_static_slot_fills_to_its_last_token_and_is_then_full(static: TorchEngine, exact: TorchEngine) -> None:
    tokens = random_prompt(9, ANSWER)
    for engine in (static, exact):
        engine.encode(1, PROMPTS[3])
    assert_same(static.extend(1, tokens), exact.extend(1, tokens))
    with pytest.raises(EngineError, match="full"):
        static.step([1], [5])


def test_static_rewind_forgets_as_if_never_fed(static: TorchEngine) -> None:
    static.encode(0, PROMPTS[0])
    static.encode(4, PROMPTS[2])
    static.step([0, 4], [0, 0])
    once = static.extend(0, [7, 8, 9])
    static.rewind(0, 3)
    static.step([4], [11])
    static.extend(0, [50, 51])
    static.rewind(0, 2)
    assert np.array_equal(static.extend(0, [7, 8, 9]), once)


def test_a_static_slot_has_the_same_bits_in_any_company(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone, shared = (make_static(checkpoint, monkeypatch) for _ in range(2))
    for slot, prompt in PROMPTS.items():
        shared.encode(slot, prompt)
    shared.extend(3, random_prompt(3, 70))  # so far on that its company runs over more of the caches
    alone.encode(4, PROMPTS[4])
    for token in (0, 17, 33):
        together = shared.step([5, 3, 4, 0], [token + 1, token + 2, token, token + 3])
        assert np.array_equal(alone.step([4], [token])[0], together[2])


def test_what_a_broken_request_left_in_a_static_slot_reaches_no_other(static: TorchEngine) -> None:
    assert static._static is not None
    static.encode(0, PROMPTS[2])
    expected = static.extend(0, [0, 5, 6])
    static.release(0)
    static._static.self_cache[:, :, 0] = torch.nan
    static._static.cross_cache[:, :, 0] = torch.nan
    static.encode(0, PROMPTS[2])
    assert np.array_equal(static.extend(0, [0, 5, 6]), expected)


def test_cross_attention_of_a_static_slot_is_the_reference_s(static: TorchEngine, exact: TorchEngine) -> None:
    for engine in (static, exact):
        engine.encode(2, PROMPTS[1])
    assert np.array_equal(static.cross_attention(2), exact.cross_attention(2))


Buffers = tuple[Tensor, Tensor, Tensor, Tensor]


def run_forward(step: StaticStep, bucket: Bucket, *buffers: Tensor) -> None:
    step.state, step.self_cache, step.cross_cache, step.logits = buffers
    step.forward(bucket)


def random_buffers(step: StaticStep, seed: int) -> Buffers:
    generator = torch.Generator().manual_seed(seed)
    tokens, positions, lengths = (
        torch.randint(low, high, (SLOTS,), generator=generator) for low, high in ((0, 94), (0, 60), (1, 120))
    )
    caches = (torch.randn(cache.shape, generator=generator) for cache in (step.self_cache, step.cross_cache))
    self_cache, cross_cache = caches
    return torch.stack([tokens, positions, lengths]), self_cache, cross_cache, torch.zeros(step.logits.shape)


def test_forward_traced_without_data_gives_its_results_on_any_data(checkpoint: Path) -> None:
    step, bucket = step_of(checkpoint), Bucket(rows=4, prompt=128, answer=64)

    def forward(state: Tensor, self_cache: Tensor, cross_cache: Tensor, logits: Tensor) -> None:
        run_forward(step, bucket, state, self_cache, cross_cache, logits)

    # Fake tensors hold shapes and no numbers: a branch, a size or a transfer that asked for one would raise.
    trace = make_fx(forward, tracing_mode="fake", _allow_non_fake_inputs=True)
    with torch.inference_mode():
        graph = trace(*random_buffers(step, 0))
        for seed in (1, 2, 3):
            replayed, eager = random_buffers(step, seed), random_buffers(step, seed)
            graph(*replayed)
            forward(*eager)
            assert eager[3][:4].abs().sum() > 0
            for one, other in zip(replayed, eager, strict=True):
                assert torch.equal(one, other)


def test_forward_run_twice_is_as_run_once(checkpoint: Path) -> None:
    step, bucket = step_of(checkpoint), Bucket(rows=6, prompt=208, answer=96)
    buffers = random_buffers(step, 4)
    with torch.inference_mode():
        run_forward(step, bucket, *buffers)
        once = [buffer.clone() for buffer in buffers]
        run_forward(step, bucket, *buffers)
    assert all(torch.equal(one, other) for one, other in zip(once, buffers, strict=True))


def test_buckets_are_the_least_that_hold_what_is_asked(checkpoint: Path) -> None:
    step = step_of(checkpoint)
    assert step.bucket(1, 1, 1) == Bucket(rows=1, prompt=128, answer=64)
    assert step.bucket(2, 128, 64) == Bucket(rows=4, prompt=128, answer=64)
    assert step.bucket(5, 129, 65) == Bucket(rows=6, prompt=208, answer=96)


def test_cache_bytes_are_those_of_the_caches(checkpoint: Path) -> None:
    step = step_of(checkpoint)
    tokens = step.self_cache.shape[4] + step.cross_cache.shape[4]
    expected = cache_bytes(T5Geometry.read(checkpoint), SLOTS, tokens, torch.float32)
    assert step.self_cache.nbytes + step.cross_cache.nbytes == expected


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="captures CUDA graphs: needs a CUDA device")


@needs_cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_replayed_graphs_keep_a_slot_s_bits_in_any_company(checkpoint: Path, precision: str) -> None:
    alone, shared = (
        TorchEngine(
            checkpoint, slots=SLOTS, precision=precision, device="gpu", max_prompt_tokens=PROMPT, max_new_tokens=ANSWER
        )
        for _ in range(2)
    )
    for slot, prompt in PROMPTS.items():
        shared.encode(slot, prompt)
    shared.extend(3, random_prompt(3, 70))
    alone.encode(4, PROMPTS[4])
    for token in (0, 17, 33):
        together = shared.step([5, 3, 4, 0], [token + 1, token + 2, token, token + 3])
        assert np.array_equal(alone.step([4], [token])[0], together[2])


@needs_cuda
def test_replayed_graphs_give_the_reference_s_logits(checkpoint: Path, exact: TorchEngine) -> None:
    gpu = TorchEngine(
        checkpoint, slots=SLOTS, precision="fp32", device="gpu", max_prompt_tokens=PROMPT, max_new_tokens=ANSWER
    )
    for slot, prompt in PROMPTS.items():
        gpu.encode(slot, prompt)
        exact.encode(slot, prompt)
    for number in range(5):
        named = list(range(number, SLOTS))
        actual, expected = (engine.step(named, [number + 3] * len(named)) for engine in (gpu, exact))
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-3 * float(np.abs(expected).max()))
