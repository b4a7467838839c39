"""How well a model answers, by the engine that serves it and beside two baselines.

`python -m training.evaluate --model models/embedded --data FILE.jsonl --limit 200` prints a table and, as its
last line, JSON with the metrics of `training.metrics.score`. Answers are greedy. `--samples 20` writes a page of
questions, references and answers to read.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm

from handler.contract.prompt import fit
from handler.engines import DEFAULT_ENGINE, ENGINES, check_engine
from handler.engines.base import EngineError
from training.answers import SLOTS, Answerer
from training.checkpoint import CheckpointError
from training.command_line import whole
from training.data import DataError, Record, read_records
from training.metrics import best_overlap, first_sentence, score
from training.samples_page import samples_page
from training.serving import serving_folder
from training.whole_file import check_writable, write_whole

SAMPLES_PAGE: Final = Path("build/samples.html")


def answer_all(records: Sequence[Record], answerer: Answerer) -> tuple[list[str], float]:
    """Return the model's answers to `records` and the milliseconds each took, several at a time."""
    prompts = [
        fit(record.turns, record.knowledge, budget=answerer.budget, count_tokens=answerer.count_tokens).text
        for record in records
    ]
    with tqdm(total=len(prompts), desc="answering", unit=" replies") as bar:
        start = time.perf_counter()
        answers = answerer(prompts, bar.update)
        milliseconds = (time.perf_counter() - start) * 1e3
    return answers, milliseconds / len(records)


def evaluate(
    records: Sequence[Record], model: str, engine: str, precision: str, at_once: int = SLOTS
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Return the metrics of the model and of both baselines by name, and the model's answers.

    Raises CheckpointError or EngineError when the model cannot be loaded.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = serving_folder(model, Path(scratch), engine=engine, precision=precision)
        answerer = Answerer(folder, engine, precision, slots=at_once)
        answers, milliseconds = answer_all(records, answerer)

    def measure(replies: Sequence[str]) -> dict[str, float]:
        return score(
            replies,
            [record.response for record in records],
            [record.answer for record in records],
            [record.knowledge for record in records],
        )

    def copied(rule: Callable[[str, str], str]) -> list[str]:
        return [rule(record.knowledge, record.turns[-1]) for record in records]

    table = {
        "model": measure(answers) | {"ms_per_reply": milliseconds, "tokens_per_step": answerer.tokens_per_step},
        "first sentence": measure(copied(first_sentence)),
        "best overlap": measure(copied(best_overlap)),
    }
    return table, answers


def main() -> None:
    """Evaluate from the command line."""
    options = _options()
    page: Path | None = options.samples_page if options.samples else None
    try:
        check_engine(options.engine, options.precision)
        records = read_records(options.data)
        if options.limit and options.limit < len(records):
            records = [records[number * len(records) // options.limit] for number in range(options.limit)]
        for output in (options.json, page):
            if output:
                check_writable(output)
        table, answers = evaluate(records, options.model, options.engine, options.precision, options.at_once)
        text = json.dumps(_result(options.data, len(records), table))
        _print_table(table)
        if page:
            print(f"samples: {page}")
        print(text, flush=True)  # before the files: what took long is seen even where the disk has become full
        outputs = {options.json: text + "\n"} if options.json else {}
        if page:
            title = f"{Path(options.model).name} on {options.data.name}"
            outputs[page] = samples_page(records[: options.samples], answers[: options.samples], title)
        write_whole(outputs)
    except (CheckpointError, DataError, EngineError, OSError) as error:
        sys.exit(f"evaluate: {error}")


def _result(data: Path, count: int, table: dict[str, dict[str, float]]) -> dict[str, Any]:
    rows = {name: {column: _number(value) for column, value in row.items()} for name, row in table.items()}
    return {"data": data.name, "n": count, **rows.pop("model"), "baselines": rows}


def _number(value: float) -> float | None:
    """Return `value` to four digits; JSON has no NaN, so what is not known is null."""
    return None if math.isnan(value) else round(value, 4)


def _print_table(table: dict[str, dict[str, float]]) -> None:
    """Print the metrics as rows and who they are of as columns: ten columns of numbers would not fit a terminal."""
    print(f"{'':20}" + "".join(f"{name:>16}" for name in table))
    for metric in table["model"]:
        values = [row.get(metric, math.nan) for row in table.values()]
        print(f"{metric:20}" + "".join(f"{'-' if math.isnan(value) else f'{value:.3f}':>16}" for value in values))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate",
        description="Measure a model's greedy answers with the engine that serves it.",
    )
    parser.add_argument("--model", default="models/embedded", help="model folder or hub name (%(default)s)")
    parser.add_argument("--data", type=Path, required=True, help="JSON-lines records")
    parser.add_argument("--engine", default=DEFAULT_ENGINE, help=f"{' or '.join(ENGINES)} (%(default)s)")
    parser.add_argument("--precision", default="auto", help="one that the engine has (%(default)s)")
    parser.add_argument("--at_once", type=whole(1), default=SLOTS, help="questions in work at a time (%(default)s)")
    parser.add_argument("--limit", type=whole(1), help="take this many records, evenly spread over the file")
    parser.add_argument("--samples", type=whole(0), default=0, help="write this many answers to a page")
    parser.add_argument(
        "--samples_page",
        type=Path,
        help=f"where the page goes (beside --json, its name ending in .html; else {SAMPLES_PAGE})",
    )
    parser.add_argument("--json", type=Path, help="write the JSON there too")
    options = parser.parse_args()
    if options.samples_page and not options.samples:
        parser.error("--samples_page goes with --samples")
    options.samples_page = options.samples_page or (options.json.with_suffix(".html") if options.json else SAMPLES_PAGE)
    if options.samples and options.samples_page == options.json:
        parser.error("--json and --samples_page name the same file")
    return options


if __name__ == "__main__":
    main()
