"""The sweeps as figures for the README: opaque, so that they read on light and dark pages, and small."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot

AXES: Final = {
    "prompt_tokens": ("prompt, tokens", "one request, seconds"),
    "new_tokens": ("answer, new tokens", "one request, seconds"),
    "batch": ("requests at once", "all answered, seconds"),
    "clients": ("clients, whole stack over HTTP", "all answered, seconds"),
    "model": ("model", "one request, seconds"),
}
LABELS: Final = {
    "ours": ("godel-serve", "#1f6fb4", "o"),
    "transformers_fp32": ("transformers fp32", "#c2571a", "s"),
    "baseline_app": ("naive app, fp32", "#c2571a", "s"),
}


def draw(sweep: Mapping[str, Mapping[str, Mapping[str, float]]], folder: Path, kind: str) -> list[Path]:
    """Write `KIND-NAME.png` for every sweep into `folder` and return the files. `kind` is that of the processor."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, points in sweep.items():
        figure, axes = pyplot.subplots(figsize=(5, 3.4), dpi=110, facecolor="white", layout="constrained")
        _bars(axes, points) if name == "model" else _lines(axes, points)
        axes.set_xlabel(AXES[name][0])
        axes.set_ylabel(AXES[name][1])
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
        axes.legend()
        files.append(folder / f"{kind}-{name}.png")
        figure.savefig(files[-1])
        pyplot.close(figure)
    return files


def _lines(axes: Any, points: Mapping[str, Mapping[str, float]]) -> None:
    for contender, seconds in points.items():
        label, colour, marker = LABELS[contender]
        axes.plot([int(value) for value in seconds], list(seconds.values()), label=label, color=colour, marker=marker)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)


def _bars(axes: Any, points: Mapping[str, Mapping[str, float]]) -> None:
    width = 0.8 / len(points)
    for place, (contender, seconds) in enumerate(points.items()):
        label, colour, _ = LABELS[contender]
        centres = [index + (place - (len(points) - 1) / 2) * width for index in range(len(seconds))]
        bars = axes.bar(centres, list(seconds.values()), width, label=label, color=colour)
        axes.bar_label(bars, fmt="%.2f", fontsize=8)
        axes.set_xticks(range(len(seconds)), list(seconds))
