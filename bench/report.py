"""From raw seconds to the figures, the table beside their targets and the last JSON line."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from bench.interleaved import times_better, times_better_than


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure must reach and aims at: times better, or milliseconds at most where `at_most`."""

    meaning: str
    must: float
    aim: float
    at_most: bool = False

    def verdict(self, value: float) -> str:
        """Return whether `value` reaches the aim, the must or neither."""
        sign = -1 if self.at_most else 1
        if sign * value >= sign * self.aim:
            return "aim"
        return "must" if sign * value >= sign * self.must else "missed"


TARGETS: Final = {
    "engine_b1_vs_transformers_fp32": Target("engine, batch 1, against transformers fp32", 4.5, 7),
    "engine_b8_vs_transformers_fp32": Target("engine, batch 8, against transformers fp32", 4, 6),
    "engine_b1_vs_ctranslate2_int8": Target("engine, batch 1, against CTranslate2 int8", 2, 3),
    "engine_b8_vs_ctranslate2_int8": Target("engine, batch 8, against CTranslate2 int8", 2, 3),
    "engine_b1_vs_openvino_int8": Target("engine, batch 1, against OpenVINO int8, the faster", 1.8, 2.5),
    "engine_b8_vs_openvino_int8": Target("engine, batch 8, against OpenVINO int8, the faster", 1.4, 2.2),
    "stack_c1_p50_vs_baseline_app": Target("stack, 1 client, median, against the naive app", 4, 6),
    "stack_c16_throughput_vs_baseline_app": Target("stack, 16 clients, throughput, against it", 7, 11),
    "stack_c16_p95_vs_baseline_app": Target("stack, 16 clients, 95th percentile, against it", 7, 11),
    "stack_overhead_ms_p50": Target("stack over engine, median, ms", 15, 8, at_most=True),
    "mini_optimised_vs_large_fp32": Target("mini on our engine, against large fp32", 25, 45),
}
"""The keys of the last JSON line, in its order."""

RIVALS: Final = {
    "transformers_fp32": ("transformers_fp32",),
    "ctranslate2_int8": ("ctranslate2_int8",),
    "openvino_int8": ("openvino_int8", "openvino_int8_fp32"),
}


def figures(raw: Mapping[str, Any]) -> dict[str, float | None]:
    """Return every figure of TARGETS from the sections that were measured; None where a rival or section is absent."""
    found: dict[str, float | None] = dict.fromkeys(TARGETS)
    batches = raw.get("engines", {}).get("batches", {})
    for batch, measured in batches.items():
        for rival, names in RIVALS.items():
            key = f"engine_b{batch}_vs_{rival}"
            if key in found:
                found[key] = times_better_than(names, measured["seconds"])
    if stack := raw.get("stack"):
        found["stack_c1_p50_vs_baseline_app"] = _against_app(stack["c1_seconds"])
        found["stack_c16_p95_vs_baseline_app"] = _against_app(stack["c16_p95"])
        rates = stack["c16_tokens_per_second"]
        found["stack_c16_throughput_vs_baseline_app"] = times_better(rates["ours"], rates["baseline_app"])
        found["stack_overhead_ms_p50"] = stack["overhead"]["stack_overhead_ms_p50"]
    if mini := raw.get("mini"):
        found["mini_optimised_vs_large_fp32"] = times_better(
            mini["seconds"]["transformers_fp32_large"], mini["seconds"]["ours"]
        )
    return {key: None if value is None else round(value, 2) for key, value in found.items()}


def _against_app(seconds: Mapping[str, list[float]]) -> float:
    return times_better(seconds["baseline_app"], seconds["ours"])


def table(found: Mapping[str, float | None]) -> str:
    """Return the figures beside their targets."""
    lines = [f"{'figure':52}{'measured':>9}{'must':>7}{'aim':>6}  reached"]
    for key, target in TARGETS.items():
        value = found[key]
        shown, verdict = ("-", "not measured") if value is None else (f"{value:.2f}", target.verdict(value))
        lines.append(f"{target.meaning:52}{shown:>9}{target.must:>7g}{target.aim:>6g}  {verdict}")
    return "\n".join(lines)


def details(raw: Mapping[str, Any]) -> str:
    """Return the raw medians, and a line for each rival that was skipped."""
    lines: list[str] = []
    for batch, measured in raw.get("engines", {}).get("batches", {}).items():
        lines.append(f"engines, batch {batch}: median seconds, resident MB")
        lines += [
            f"  {name:22}{median:8.3f}{measured['memory_mb'][name] or 0:8.0f}"
            for name, median in measured["medians"].items()
        ]
    lines += raw.get("engines", {}).get("skipped", [])
    if stack := raw.get("stack"):
        for name in ("baseline_app", "ours"):
            lines.append(
                f"{name}: 1 client {stack['c1_p50'][name]:.3f} s median; 16 clients"
                f" {statistics.median(stack['c16_tokens_per_second'][name]):.1f} tokens/s,"
                f" {statistics.median(stack['c16_p95'][name]):.2f} s 95th percentile"
            )
        lines.append("memory, MB: " + ", ".join(f"{name} {value:.0f}" for name, value in stack["memory_mb"].items()))
    if mini := raw.get("mini"):
        medians = mini["medians"]
        lines.append(f"mini ({mini['mini']}): {medians['ours']:.3f} s")
        lines.append(f"large fp32 ({mini['large']}): {medians['transformers_fp32_large']:.3f} s")
    return "\n".join(lines)
