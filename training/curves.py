"""The curves of a run: a line of JSON each time, TensorBoard beside it, and a picture at the end."""

import json
import math
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

from torch.utils.tensorboard import SummaryWriter

LOG: Final = "log.jsonl"
PICTURE: Final = "curves.png"
_LOSSES: Final = frozenset({"loss", "divergence"})
SPEED: Final = frozenset({"tokens_per_second", "waiting", "peak_share"})
"""What depends on the machine and the hour: how fast it went, which share of the time was spent waiting for data, and
which share of the device's peak was used."""
_UNDRAWN: Final = frozenset({"step", "learning_rate", "words_per_reply", "bleu"}) | SPEED


class Curves:
    """Writes `log.jsonl`, `tensorboard/` and `curves.png` in a run's folder.

    Rows hold means over the steps since the row before; a validation's names begin with `validation_`.
    """

    def __init__(
        self,
        folder: Path,
        step: int,
        gathered: dict[str, tuple[float, float]] | None = None,
        *,
        peak_tflops: float = 0.0,
    ) -> None:
        """Go on after `step` with what was `gathered` then; rows of a run killed beyond it are dropped.

        With `peak_tflops`, of all devices together, rows tell which share of it was used.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._rows = [row for row in read_log(folder) if row["step"] <= step]
        (folder / LOG).write_text("".join(json.dumps(row) + "\n" for row in self._rows), encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        self._peak = peak_tflops * 1e12
        self._reset()
        self.add(gathered or {})

    @property
    def gathered(self) -> dict[str, tuple[float, float]]:
        """What has been added since the last row, by name: the sum and of how many."""
        return {name: (number, self._totals[name]) for name, number in self._sums.items()}

    def add(self, counts: dict[str, tuple[float, float]]) -> None:
        """Take in counts of some steps, each a sum and of how many."""
        for name, (number, total) in counts.items():
            self._sums[name] += number
            self._totals[name] += total

    def worked(self, tokens: int, flops: float, waited: float) -> None:
        """Take in a step's tokens, its operations, and the seconds it waited for data."""
        self._tokens += tokens
        self._flops += flops
        self._waited += waited

    def write(self, step: int, rate: float) -> None:
        """Write a row on the steps since the last one."""
        means = {name: round(self._sums[name] / total, 4) for name, total in self._totals.items() if total}
        seconds = time.perf_counter() - self._since
        speed: dict[str, float] = {
            "tokens_per_second": round(self._tokens / seconds),
            "waiting": round(self._waited / seconds, 4),
        }
        if self._peak:
            speed["peak_share"] = round(self._flops / seconds / self._peak, 4)
        self._write({"step": step, **means, **speed, "learning_rate": rate})
        self._reset()

    def validation(self, step: int, measured: dict[str, float]) -> None:
        """Write a row on a validation."""
        known = {name: value for name, value in measured.items() if not math.isnan(value)}
        self._write({"step": step, **{f"validation_{name}": round(value, 4) for name, value in known.items()}})

    def close(self) -> None:
        """Draw the picture and end the TensorBoard file."""
        self._board.close()
        if self._rows:
            draw(self._rows, self._folder / PICTURE)

    def _write(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        with (self._folder / LOG).open("a", encoding="utf-8") as log:
            log.write(json.dumps(row) + "\n")
        for name, value in row.items():
            if name != "step":
                self._board.add_scalar(name, value, row["step"])

    def _reset(self) -> None:
        self._since = time.perf_counter()
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._totals: defaultdict[str, float] = defaultdict(float)
        self._tokens, self._flops, self._waited = 0, 0.0, 0.0


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's log; a last line cut short by a kill is left out."""
    path = folder / LOG
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw losses on one panel and shares, which lie between 0 and 1, on another, over steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, shares = figure.subplots(1, 2)
    for name in dict.fromkeys(name for row in rows for name in row):
        plain = name.removeprefix("validation_")
        if plain in _UNDRAWN:
            continue
        points = [(row["step"], row[name]) for row in rows if name in row]
        panel = losses if plain in _LOSSES else shares
        panel.plot(*zip(*points, strict=True), label=name.replace("_", " "), marker="." if len(points) < 40 else None)
    for panel, title in ((losses, "loss a token"), (shares, "share right")):
        panel.set(xlabel="step", title=title)
        panel.grid(alpha=0.3)
        if panel.lines:
            panel.legend(fontsize="small")
    figure.savefig(path, dpi=120)
