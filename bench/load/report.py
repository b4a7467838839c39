"""What a run has found: tables for people, one object for machines, and whether a promise was broken."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bench.load.arrivals import Tally
from bench.load.trend import Trend, trend
from bench.load.vitals import ALLOWED, UNBOUNDED

MUCH_LATE: Final = 0.5
"""Seconds of the generator's own lateness beyond which latencies say little of the service."""

Rest = tuple[float, Mapping[str, float]]
"""Seconds since the start, and what was seen then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """All that a run has seen."""

    minutes: float
    capacities: Sequence[float]
    """Things done a second in the closed loop, cycle by cycle."""
    tallies: Mapping[str, Tally]
    rests: Sequence[Rest]
    peaks: Mapping[str, float]
    """The most that was seen under load."""
    warm_up: float
    """Seconds whose rests are left out of the trends."""
    sessions: int
    exchanges: int
    broken: int
    broken_first: Sequence[str]
    mistakes: int = 0
    """Answers that missed the question, the same whenever it was asked."""

    def trends(self) -> dict[str, Trend]:
        """Return how everything changed from rest to rest, after the warm-up."""
        kept = [rest for rest in self.rests if rest[0] >= self.warm_up]
        names = [name for name in (*ALLOWED, *UNBOUNDED) if all(name in seen for _, seen in kept)]
        moments = [moment for moment, _ in kept]
        return {name: trend(moments, [seen[name] for _, seen in kept]) for name in names} if kept else {}

    def growing(self) -> list[str]:
        """Return what certainly grows beyond what it may."""
        found = self.trends()
        return [name for name, each in found.items() if name in ALLOWED and each.verdict(ALLOWED[name]) == "grows"]

    @property
    def kept(self) -> bool:
        """Whether all promises were kept, as far as can be told."""
        return not self.broken and not self.growing() and not any(each.count("late") for each in self.tallies.values())


def quantiles(values: Sequence[float]) -> dict[str, float] | None:
    """Return the median, further quantiles and the largest of sorted `values`, in seconds; None of none."""
    if not values:
        return None
    cuts = statistics.quantiles(values, n=100, method="inclusive") if len(values) > 1 else [values[0]] * 99
    picked = {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98], "most": values[-1]}
    return {name: round(value, 4) for name, value in picked.items()}


def as_json(found: Findings) -> dict[str, Any]:
    """Return everything that the tables show."""
    return {
        "minutes": round(found.minutes, 2),
        "kept": found.kept,
        "capacity_per_second": [round(each, 2) for each in found.capacities],
        "phases": {name: _phase(tally) for name, tally in found.tallies.items()},
        "vitals": {
            name: {
                "first": round(found.rests[0][1][name], 2),
                "last": round(found.rests[-1][1][name], 2),
                "most_under_load": round(found.peaks.get(name, 0.0), 2),
                "per_hour": round(each.per_hour, 3),
                "half_width": round(each.half_width, 3) if each.points and each.half_width < 1e12 else None,
                "points": each.points,
                "verdict": each.verdict(ALLOWED[name]) if name in ALLOWED else "not bounded",
            }
            for name, each in found.trends().items()
        },
        "sessions_read_back": found.sessions,
        "acknowledged_turns": found.exchanges,
        "broken": found.broken,
        "broken_first": list(found.broken_first),
        "mistakes_of_the_model": found.mistakes,
    }


def _phase(tally: Tally) -> dict[str, Any]:
    kinds = sorted({kind for kind, _ in tally.endings})
    return {
        "seconds": round(tally.seconds, 1),
        "requests": sum(tally.endings.values()),
        "held_back": tally.held_back,
        "endings": {ending: tally.count(ending) for ending in ("done", "refused", "late", "left", "broken")},
        "accepted_by_the_model": quantiles(tally.of_the_model("done")),
        "refused_in": quantiles(tally.of_the_model("refused")),
        "first_text": quantiles(sorted(tally.first_text)),
        "kinds": {kind: quantiles(sorted(tally.latencies[kind, "done"])) for kind in kinds},
        "generator_late": round(tally.lag, 3),
    }


def tables(found: Findings) -> str:
    """Return the tables."""
    whole = as_json(found)
    median = statistics.median(found.capacities) if found.capacities else 0.0
    lines = [
        f"{found.minutes:.1f} minutes; capacity, things done a second in the closed loop: median {median:.1f}"
        f" ({min(found.capacities, default=0):.1f} to {max(found.capacities, default=0):.1f})",
        "",
        "seconds of accepted requests to the model; how fast the refused were told",
        f"{'phase':8}{'came':>7}{'done':>7}{'refused':>9}{'late':>6}{'left':>6}{'held':>6}"
        f"{'p50':>8}{'p95':>8}{'p99':>8}{'most':>8}{'refused: p50':>14}{'p99':>8}",
    ]
    for name, phase in whole["phases"].items():
        ends, taken, told = phase["endings"], phase["accepted_by_the_model"] or {}, phase["refused_in"] or {}
        lines.append(
            f"{name:8}{phase['requests']:7}{ends['done']:7}{ends['refused']:9}{ends['late']:6}{ends['left']:6}"
            f"{phase['held_back']:6}"
            + "".join(f"{_shown(taken.get(key)):>8}" for key in ("p50", "p95", "p99", "most"))
            + f"{_shown(told.get('p50')):>14}{_shown(told.get('p99')):>8}"
        )
    lines += [
        f"in {name} the generator itself was up to {phase['generator_late']:.1f} s late, which is in the latencies"
        for name, phase in whole["phases"].items()
        if phase["generator_late"] > MUCH_LATE
    ]
    kinds = sorted({kind for phase in whole["phases"].values() for kind in phase["kinds"]})
    lines += ["", f"{'p50 / p95':10}" + "".join(f"{kind:>16}" for kind in kinds)]
    for name, phase in whole["phases"].items():
        cells = [(phase["kinds"].get(kind) or {}) for kind in kinds]
        lines.append(
            f"{name:10}" + "".join(f"{_shown(cell.get('p50')) + ' /' + _shown(cell.get('p95')):>16}" for cell in cells)
        )
    lines += ["", f"{'at rest':24}{'first':>9}{'last':>9}{'load':>9}{'per hour':>11}{'+-':>10}{'may':>7}  verdict"]
    for name, vital in whole["vitals"].items():
        width = "?" if vital["half_width"] is None else f"{vital['half_width']:.2f}"
        allowed = f"{ALLOWED[name]:g}" if name in ALLOWED else ""
        lines.append(
            f"{name:24}{vital['first']:9.1f}{vital['last']:9.1f}{vital['most_under_load']:9.1f}"
            f"{vital['per_hour']:11.2f}{width:>10}{allowed:>7}  {vital['verdict']}"
        )
    lines += [
        "",
        f"{found.sessions} sessions read back: {found.exchanges} acknowledged turns, and nothing else",
        f"answers that missed the question, the same when asked again: {found.mistakes}",
        f"broken promises: {found.broken}",
        *(f"  {each}" for each in found.broken_first),
    ]
    return "\n".join(lines)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if value < 10 else f"{value:.1f}"
