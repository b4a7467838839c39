"""The arithmetic between raw seconds and published figures."""

import json
import platform
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from bench.__main__ import _earlier
from bench.engines import Plan
from bench.interleaved import rounds, times_better, times_better_than
from bench.machine import INSTRUCTIONS, instructions, machine
from bench.report import TARGETS, details, figures, table


def test_a_ratio_is_the_median_over_rounds_not_the_ratio_of_medians() -> None:
    assert times_better([2.0, 30.0, 8.0], [1.0, 10.0, 2.0]) == 3.0


def test_rounds_that_were_not_paired_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        times_better([1.0, 2.0], [1.0])


def test_contenders_are_asked_in_turn_and_the_warm_up_does_not_count() -> None:
    asked: list[str] = []
    clock = iter(range(100))

    def contender(name: str) -> float:
        asked.append(name)
        return float(next(clock))

    found = rounds({"a": lambda: contender("a"), "b": lambda: contender("b")}, 2, pause=0)
    assert asked == ["a", "b"] * 3
    assert found == {"a": [2.0, 4.0], "b": [3.0, 5.0]}


def test_a_contender_that_fails_is_left_out_only_where_that_is_forgiven() -> None:
    calls = iter(range(100))

    def shaky() -> float:
        if next(calls) == 1:
            raise OSError("gone")
        return 1.0

    contenders = {"a": lambda: 1.0, "shaky": shaky, "b": lambda: 2.0}
    forgiven: list[str] = []

    def forgive(name: str, error: Exception) -> bool:
        forgiven.append(f"{name}: {error}")
        return True

    assert rounds(contenders, 3, pause=0, forgive=forgive) == {"a": [1.0] * 3, "b": [2.0] * 3}
    assert forgiven == ["shaky: gone"]
    calls = iter(range(100))
    with pytest.raises(OSError, match="gone"):
        rounds(contenders, 3, pause=0)


def test_the_faster_of_two_settings_is_the_rival() -> None:
    seconds = {"ours": [1.0, 1.0], "slow": [4.0, 4.0], "fast": [2.0, 2.0]}
    assert times_better_than(("slow", "fast"), seconds) == 2.0
    assert times_better_than(("absent", "slow"), seconds) == 4.0
    assert times_better_than(("absent",), seconds) is None


def raw() -> dict[str, Any]:
    seconds = {"ours": [1.0] * 3, "transformers_fp32": [5.0] * 3}
    measured = {
        "seconds": seconds,
        "medians": {name: values[0] for name, values in seconds.items()},
        "memory_mb": {"ours": 100.0, "transformers_fp32": None},
    }
    return {
        "engines": {"batches": {"1": measured, "8": measured}, "skipped": ["openvino_int8: skipped; do this"]},
        "stack": {
            "c1_seconds": {"ours": [1.0], "baseline_app": [4.0]},
            "c1_p50": {"ours": 1.0, "baseline_app": 4.0},
            "c16_tokens_per_second": {"ours": [70.0], "baseline_app": [10.0]},
            "c16_p95": {"ours": [2.0], "baseline_app": [18.0]},
            "memory_mb": {"worker_rss": 500.0},
            "overhead": {"stack_overhead_ms_p50": 9.5},
        },
    }


def test_what_was_not_measured_is_null_and_the_rest_is_how_many_times_better_we_are() -> None:
    found = figures(raw())
    assert list(found) == list(TARGETS)
    assert found == dict.fromkeys(TARGETS) | {
        "engine_b1_vs_transformers_fp32": 5.0,
        "engine_b8_vs_transformers_fp32": 5.0,
        "stack_c1_p50_vs_baseline_app": 4.0,
        "stack_c16_throughput_vs_baseline_app": 7.0,
        "stack_c16_p95_vs_baseline_app": 9.0,
        "stack_overhead_ms_p50": 9.5,
    }


def test_the_table_says_what_was_reached_missed_and_left_out() -> None:
    lines = dict(zip(TARGETS, table(figures(raw())).splitlines()[1:], strict=True))
    assert lines["engine_b1_vs_transformers_fp32"].endswith("must")
    assert lines["stack_overhead_ms_p50"].endswith("must")
    assert lines["engine_b1_vs_openvino_int8"].endswith("not measured")
    assert table(figures(raw()) | {"stack_overhead_ms_p50": 16.0}).count("missed") == 1
    assert table(figures(raw()) | {"stack_overhead_ms_p50": 7.0}).count("  aim") == 2  # the heading's, and this


def test_a_skipped_rival_has_its_line() -> None:
    assert "openvino_int8: skipped; do this" in details(raw()).splitlines()


def test_sections_of_the_same_day_machine_and_plan_come_together_and_no_others(tmp_path: Path) -> None:
    plan, path = Plan(engine="onnx", precision="int8"), tmp_path / "result.json"
    assert _earlier(path, plan) == {}
    path.write_text(json.dumps({"machine": machine(), "plan": asdict(plan), "figures": {}, "mini": {"seconds": {}}}))
    assert _earlier(path, plan) == {"mini": {"seconds": {}}}
    assert _earlier(path, replace(plan, rounds=plan.rounds + 1)) == {}
    path.write_text(json.dumps({"machine": machine() | {"date": "2001-01-01"}, "plan": asdict(plan)}))
    assert _earlier(path, plan) == {}


def test_a_processor_is_told_by_what_it_multiplies_with() -> None:
    assert instructions() in (*INSTRUCTIONS, platform.machine())
    assert machine()["instructions"] == instructions()
