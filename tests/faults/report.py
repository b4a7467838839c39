"""What every fault did: one line each, printed at the end of the run and kept for `docs/reliability.md`."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

REPORT = Path("build") / "faults.json"


@dataclass
class Outcome:
    """What clients saw of a fault, and what it cost."""

    seen: dict[str, int] = field(default_factory=dict)
    """Outcomes of the requests that ended after it: a status, or how the connection ended."""
    recovered: float | None = None
    """Seconds from the fault to the last failure; None where nothing had to recover."""
    slowest: float = 0.0
    """Seconds of the slowest request of the whole test."""
    promised: int = 0
    """Acknowledged writes, all of them read back."""
    lost: int = 0
    """How many of them were gone."""


class Report:
    """The outcomes of this run by fault."""

    def __init__(self) -> None:
        self.outcomes: dict[str, Outcome] = {}

    def add(self, fault: str, outcome: Outcome) -> None:
        """Note what became of a fault."""
        self.outcomes[fault] = outcome

    def lines(self) -> Iterator[str]:
        """Yield the rows of a Markdown table."""
        yield "| fault | clients saw | back after, s | slowest request, s | promised | lost |"
        yield "|---|---|---|---|---|---|"
        for fault, outcome in self.outcomes.items():
            seen = ", ".join(f"{count} of {what}" for what, count in sorted(outcome.seen.items()))
            back = "" if outcome.recovered is None else f"{outcome.recovered:.1f}"
            yield f"| {fault} | {seen} | {back} | {outcome.slowest:.1f} | {outcome.promised} | {outcome.lost} |"

    def save(self) -> None:
        """Write it to `build/faults.json`."""
        REPORT.parent.mkdir(exist_ok=True)
        found = {fault: asdict(outcome) for fault, outcome in self.outcomes.items()}
        REPORT.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
