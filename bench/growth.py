"""How the engine's own cost grows: reading by a prompt's length, a step by its rows and by its place in the answer.

`python -m bench.growth` loads our engine over the geometry of T5-base in this process, without TorchServe. Reading n
tokens is fitted by a n + b n^2, the products and the attention, over prompts of up to FITTED tokens; a ratio to that
line above 1 is a bend. Prints tables and a last JSON line.
"""

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from bench.checkpoints import checkpoint
from bench.engines import vocabulary
from bench.export import served_folder
from bench.machine import machine
from bench.prompts import FIRST_WORD, prompt_ids
from handler.engines import DEFAULT_ENGINE, load_engine
from handler.engines.base import Engine

LENGTHS: Final = (64, 128, 256, 384, 512, 640, 768, 896, 1024, 1280)
FITTED: Final = 768
ROWS: Final = (1, 2, 4, 8)
ANSWER: Final = 240
PLACES: Final = 4
"""Into how many parts an answer is divided."""


def reading(engine: Engine, words: int, lengths: Sequence[int], repeats: int) -> dict[int, float]:
    """Return the median milliseconds of reading a prompt, by its length; `words` is the size of the vocabulary."""
    taken: dict[int, list[float]] = {length: [] for length in lengths}
    for repeat in range(repeats):
        for length in lengths:
            ids = prompt_ids(length, words, repeat)
            start = time.perf_counter()
            engine.encode(0, ids)
            taken[length].append((time.perf_counter() - start) * 1e3)
            engine.release(0)
    return {length: statistics.median(milliseconds) for length, milliseconds in taken.items()}


def fit(points: Mapping[int, float]) -> tuple[float, float]:
    """Return a and b of the a n + b n^2 that is nearest to `points` (least squares of the relative errors)."""
    lengths, milliseconds = np.array([*points], float), np.array([*points.values()])
    terms = np.stack([lengths, lengths**2], axis=1) / milliseconds[:, None]
    (a, b), *_ = np.linalg.lstsq(terms, np.ones(len(lengths)), rcond=None)
    return float(a), float(b)


def writing(engine: Engine, words: int, rows: int, prompt: int, answer: int) -> list[float]:
    """Return the median milliseconds of a step of `rows` rows in each of PLACES parts of an answer."""
    slots = list(range(rows))
    for slot in slots:
        engine.encode(slot, prompt_ids(prompt, words, slot))
    taken = []
    for _ in range(answer):
        start = time.perf_counter()
        engine.step(slots, [FIRST_WORD] * rows)
        taken.append((time.perf_counter() - start) * 1e3)
    for slot in slots:
        engine.release(slot)
    return [statistics.median(part) for part in np.array_split(taken, PLACES)]


def main() -> None:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", default="int8", help="(default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="of every length (default: %(default)s)")
    options = parser.parse_args()
    folder, words = served_folder(checkpoint("base"), DEFAULT_ENGINE, options.precision), vocabulary("base")
    engine = load_engine(
        DEFAULT_ENGINE,
        options.precision,
        folder,
        slots=max(ROWS),
        max_prompt_tokens=max(LENGTHS),
        max_new_tokens=ANSWER,
    )
    read = reading(engine, words, LENGTHS, options.repeats)
    a, b = fit({length: milliseconds for length, milliseconds in read.items() if length <= FITTED})
    print(f"reading, of which up to {FITTED} tokens is about {a:.3f} n + {b * 1e3:.3f} n^2 / 1000 ms")
    for length, milliseconds in read.items():
        print(f"  {length:5} tokens {milliseconds:8.1f} ms, {milliseconds / (a * length + b * length**2):.2f} of it")
    written = {rows: writing(engine, words, rows, 448, ANSWER) for rows in ROWS}
    print(f"a step after 448 tokens of prompt, in each quarter of {ANSWER} tokens")
    for rows, parts in written.items():
        print(f"  {rows:5} rows   " + ", ".join(f"{milliseconds:.1f}" for milliseconds in parts) + " ms")
    print(json.dumps({"machine": machine(), "reading_ms": read, "a": a, "b": b, "step_ms": written}))


if __name__ == "__main__":
    main()
