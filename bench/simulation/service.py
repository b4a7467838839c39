"""How long one instance takes for what: from a file of `bench/results`, or from a stated model where nothing was
measured.
"""

import itertools
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import yaml

from handler.scheduler import CPU_PATIENCE
from training.worker_config import MODEL_CONFIG

RESULTS: Final = Path(__file__).parent.parent / "results" / "avx512_vnni.json"

GATEWAY_SECONDS: Final = 0.0055
"""Of the gateway's processor for a question without a session: one client alone, bench/LOG.md, "The gateway's own
time"."""

SESSION_SECONDS: Final = 0.004
"""What a session adds to that: the same table, 9.5 ms less 5.5."""

WRITE_SECONDS: Final = 0.002
"""Of the one writer that SQLite lets in: 32 at once, 99 % within 65 ms, by the same log."""

Curve = Sequence[tuple[float, float]]
"""Points (x, seconds) with x ascending."""


def interpolate(curve: Curve, x: float) -> float:
    """Return the seconds at `x`: straight lines between the points, and the outermost ones beyond them."""
    if len(curve) == 1:
        return curve[0][1]
    for (left, low), (right, high) in itertools.pairwise(curve):
        if x <= right or right == curve[-1][0]:
            return max(0.0, low + (high - low) * (x - left) / (right - left))
    raise AssertionError("a curve has points")


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One TorchServe instance with its worker, and the gateway's share of a request."""

    name: str
    slots: int
    encode: Curve
    """By prompt tokens: one prompt, while nobody else is advanced."""
    step: Curve
    """By live requests: one token for each."""
    around: float
    """Seconds that a request spends between gateway and engine, where they delay it but hold nothing up."""
    patience: float = 0.0
    """Of the scheduler, in seconds."""
    gateway: float = GATEWAY_SECONDS
    session: float = SESSION_SECONDS
    write: float = WRITE_SECONDS
    source: str = ""

    def encode_seconds(self, prompt_tokens: int) -> float:
        """Return how long a prompt takes to read."""
        return interpolate(self.encode, prompt_tokens)

    def step_seconds(self, live: int) -> float:
        """Return how long one token for each of `live` requests takes."""
        return interpolate(self.step, live)

    @classmethod
    def measured(cls, results: Mapping[str, Any]) -> Self:
        """Return the service that `bench`'s engine sweeps describe, with the slots that archives are built with; the
        sweep over clients is left for comparison.

        A sweep's point is the time of a whole answer: reading the prompts, then a step a token. The slope over new
        tokens is a step of one row; what is left of it without tokens is the reading.
        """
        plan, sweep = results["plan"], results["sweep"]
        prompt, new = plan["prompt_tokens"], plan["new_tokens"]
        answers = sorted((int(n), points) for n, points in sweep["new_tokens"]["ours"].items())
        one_row, _ = statistics.linear_regression([n for n, _ in answers], [seconds for _, seconds in answers])
        reading = sorted(
            (float(n), max(0.0, seconds - new * one_row)) for n, seconds in sweep["prompt_tokens"]["ours"].items()
        )
        encode = interpolate(reading, prompt)
        step = [(1.0, one_row)]
        for rows, seconds in sorted((int(n), seconds) for n, seconds in sweep["batch"]["ours"].items()):
            if rows > 1:
                step.append((float(rows), max(step[-1][1], (seconds - rows * encode) / new)))
        overhead = results["figures"]["stack_overhead_ms_p50"] / 1e3
        machine = results["machine"]
        return cls(
            name=f"T5-{plan['base']}, {plan['engine']} {plan['precision']}, {machine['cores']} cores",
            slots=int(yaml.safe_load(MODEL_CONFIG.read_text(encoding="utf-8"))["batchSize"]),
            encode=reading,
            step=step,
            around=max(0.0, overhead - GATEWAY_SECONDS),
            patience=CPU_PATIENCE,
            source=f"make bench, {machine['processor']}, {machine['date']}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """A GPU as a simple model has it; nothing of this was measured by the project."""

    name: str
    bytes_per_second: float
    flops: float
    used: float = 0.3
    """The share of `flops` that a real encoder reaches."""
    launch: float = 0.002
    """Seconds that a step takes at least: launching kernels, sampling, and the handler's own Python."""


def assumed(accelerator: Accelerator, *, parameters: float = 223e6, slots: int = 32) -> Service:
    """Return a service on a GPU by the roofline: a step reads the decoder and every row's keys and values once.

    T5-base in bf16: of 223 million parameters the decoder has 138; a row's cross-attention reads 450 tokens' keys and
    values in 12 layers of width 768. A prompt costs two operations a parameter of the encoder and token.
    """
    decoder, encoder, row = 138e6 * 2, parameters - 138e6, 450 * 2 * 12 * 768 * 2.0
    step = [(float(n), accelerator.launch + (decoder + n * row) / accelerator.bytes_per_second) for n in (1, slots)]
    per_token = 2 * encoder / (accelerator.flops * accelerator.used)
    encode = [(float(n), accelerator.launch + n * per_token) for n in (1, 1024)]
    return Service(
        name=f"T5-base, bf16, {accelerator.name}",
        slots=slots,
        encode=encode,
        step=step,
        around=0.022,
        source="assumed: memory bandwidth and operations a second; never measured",
    )


def read_results(path: Path = RESULTS) -> dict[str, Any]:
    """Return what `make bench` has written. Raises OSError or ValueError."""
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return results
