"""Attention in one kernel on a GPU (training/attention.py): what is off beside double precision, and how long it takes.

`python -m bench.attention` compares result and gradients with attention written out, for several shapes; then times
each of the four kernels by tiles of several sizes, for 128 prompts of 512 tokens and 12 heads of 48 in bf16, and the
whole beside PyTorch's own attention with the bias as a mask. Prints lines and a last one of JSON. Needs CUDA.
"""

import argparse
import json
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from bench.machine import machine

ROWS, HEADS, TOKENS, WIDTH = 128, 12, 512, 48

SHAPES = (
    (2, 2, 40, 16, True, torch.bfloat16),
    (3, 12, 200, 48, True, torch.bfloat16),
    (3, 12, 512, 48, False, torch.bfloat16),
    (2, 12, 328, 48, True, torch.float16),
    (2, 8, 512, 64, True, torch.bfloat16),
)

TILES = {
    "FORWARD": [(128, 64, 8, 3), (128, 64, 8, 2), (64, 64, 4, 3), (64, 64, 4, 2), (128, 32, 8, 3), (128, 128, 8, 2)],
    "KEYS": [(64, 128, 8, 2), (64, 128, 8, 3), (64, 64, 4, 2), (64, 64, 4, 3), (32, 128, 8, 2), (32, 64, 4, 3)],
    "QUERIES": [(128, 64, 8, 2), (128, 64, 8, 3), (64, 64, 4, 2), (64, 64, 4, 3), (128, 32, 8, 3)],
    "BIAS": [(64, 64, 4, 3), (64, 64, 4, 2), (64, 64, 8, 3), (128, 64, 8, 2), (128, 64, 8, 3), (128, 128, 8, 2)],
}
"""Of each kernel, in the order of its settings: queries, keys, warps, stages."""


def inputs(rows: int, heads: int, tokens: int, width: int, kind: torch.dtype, *, masked: bool) -> list[Any]:
    """Return query, key, value, bias, and which keys are kept, or None."""
    parts: list[Any] = [
        torch.randn(rows, tokens, heads, width, device="cuda").to(kind).transpose(1, 2) for _ in range(3)
    ]
    kept = None
    if masked:
        kept = torch.ones(rows, tokens, dtype=torch.uint8, device="cuda")
        kept[0, tokens // 3 :] = 0
    return [*parts, torch.randn(heads, tokens, tokens, device="cuda") * 3, kept]


def written_out(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, kept: Tensor | None) -> Tensor:
    """Return attention as its formula has it."""
    scores = query @ key.transpose(-1, -2) + bias
    if kept is not None:
        scores = scores.masked_fill(kept[:, None, None, :] == 0, -1e30)
    return (scores.softmax(-1).to(value.dtype) @ value).transpose(1, 2)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Return the norm of what `found` is off, as a part of that of `expected`."""
    return float(((found.double() - expected).norm() / expected.norm()).detach())


def off(fused: Callable[..., Tensor], shape: tuple[int, int, int, int, bool, torch.dtype]) -> dict[str, float]:
    """Return how far result and gradients are from those in double precision, as parts of their norms."""
    rows, heads, tokens, width, masked, kind = shape
    *parts, kept = inputs(rows, heads, tokens, width, kind, masked=masked)
    gradient = torch.randn(rows, tokens, heads, width, device="cuda").to(kind)
    given = [part.detach().requires_grad_() for part in parts]
    exact = [part.detach().double().requires_grad_() for part in parts]
    found = fused(*given, kept)
    query, key, value, bias = exact
    expected = written_out(query, key, value, bias, kept)
    torch.autograd.backward(found, gradient)
    torch.autograd.backward(expected, gradient.double())
    pairs = {"result": (found, expected)}
    pairs |= {
        name: (a.grad, b.grad) for name, a, b in zip(("query", "key", "value", "bias"), given, exact, strict=True)
    }
    return {name: relative_error(*pair) for name, pair in pairs.items()}


def milliseconds(work: Callable[[], object], times: int = 10) -> float:
    """Return the mean of `times` runs after one that warms up, by the device's own clock."""
    work()
    begin, end = (torch.Event("cuda", enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(times):
        work()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) / times


def both_ways(attend: Callable[..., Tensor], given: list[Any]) -> Callable[[], None]:
    """Return what runs `attend` forward and backward."""
    parts = [part.detach().requires_grad_() for part in given[:4]]

    def run() -> None:
        result = attend(*parts, given[4])
        torch.autograd.backward(result, torch.ones_like(result))

    return run


def pytorch_s(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, kept: Tensor | None) -> Tensor:
    """Attend by PyTorch's kernel that takes a bias with a gradient, as a mask of each row."""
    mask = bias.to(query.dtype)[None].expand(len(query), -1, -1, -1)
    if kept is not None:
        mask = mask.masked_fill(kept[:, None, None, :] == 0, -1e30)
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=1.0).transpose(1, 2)


def main() -> None:
    """Check, measure and print."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("bench.attention needs a CUDA device, and PyTorch sees none")
    from training import attention

    torch.manual_seed(0)
    errors = [off(attention.fused_attention, shape) for shape in SHAPES]
    for shape, error in zip(SHAPES, errors, strict=True):
        print(shape, {name: f"{value:.1e}" for name, value in error.items()}, flush=True)
    given = inputs(ROWS, HEADS, TOKENS, WIDTH, torch.bfloat16, masked=True)
    whole = {"ours": attention.fused_attention, "PyTorch's": pytorch_s, "written out": written_out}
    taken = {name: milliseconds(both_ways(attend, given), 3) for name, attend in whole.items()}
    print("forward and backward, ms:", {name: round(value, 2) for name, value in taken.items()}, flush=True)
    best: dict[str, tuple[float, tuple[int, ...]]] = {}
    for kernel, tiles in TILES.items():
        settings = getattr(attention, kernel)
        chosen = dict(settings)
        for tile in tiles:
            settings.update(zip(chosen, tile, strict=True))
            try:
                took = milliseconds(both_ways(attention.fused_attention, given), 3)
            except Exception as error:  # a tile that a processor has no room for
                print(kernel, tile, "failed:", str(error).splitlines()[0], flush=True)
                continue
            print(kernel, tile, f"{took:.3f} ms in all", flush=True)
            best[kernel] = min(best.get(kernel, (took, tile)), (took, tile))
        settings.update(zip(chosen, best[kernel][1], strict=True) if kernel in best else chosen)
    gpu = torch.cuda.get_device_name()
    print(json.dumps({"errors": errors, "ms": taken, "best": best, "gpu": gpu, "machine": machine()}))


if __name__ == "__main__":
    main()
