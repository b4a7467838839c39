"""How well a model answers, by the engine that serves it and beside two baselines.

`python -m training.evaluate --model models/embedded --data FILE.jsonl --limit 200` prints a table and, as its
last line, JSON. Answers are greedy. `--samples 20` prints that many questions, references and answers too.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from handler.contract.generation import GenerationParameters
from handler.contract.prompt import fit
from handler.engines import load_engine
from handler.engines.base import EngineError
from handler.scheduler import Scheduler
from handler.tokenization import Tokenization
from training.data import DataError, Record, read_records
from training.metrics import best_overlap, first_sentence, score

SLOTS = 8
GREEDY = GenerationParameters(do_sample=False, max_length=80, min_length=0)


def answer_all(records: Sequence[Record], model: Path, engine: str, precision: str) -> tuple[list[str], float]:
    """Return the model's answers to `records` and the milliseconds each took, `SLOTS` at a time.

    Raises EngineError when the model cannot be loaded.
    """
    tokenization = Tokenization(model / "tokenizer.json")
    loaded = load_engine(engine, precision, model, slots=SLOTS)
    scheduler = Scheduler(loaded, prefill_tokens=loaded.description.max_prompt_tokens)
    for number, record in enumerate(records):
        prompt = fit(
            record.turns,
            record.knowledge,
            budget=loaded.description.max_prompt_tokens,
            count_tokens=lambda text: len(tokenization.encode(text)),
        )
        scheduler.submit(number, tokenization.encode(prompt.text), GREEDY)
    answers = [""] * len(records)
    start = time.perf_counter()
    while not scheduler.idle:
        for finished in scheduler.step():
            answers[int(str(finished.key))] = tokenization.decode(finished.tokens)
    return answers, (time.perf_counter() - start) * 1e3 / len(records)


def evaluate(
    records: Sequence[Record], model: Path, engine: str, precision: str
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Return the metrics of the model and of both baselines by name, and the model's answers."""
    answers, milliseconds = answer_all(records, model, engine, precision)
    responses, golds = [record.response for record in records], [record.answer for record in records]

    def baseline(rule: Callable[[str, str], str]) -> dict[str, float]:
        return score([rule(record.knowledge, record.turns[-1]) for record in records], responses, golds)

    table = {
        "model": score(answers, responses, golds) | {"ms_per_reply": milliseconds},
        "first sentence": baseline(first_sentence),
        "best overlap": baseline(best_overlap),
    }
    return table, answers


def _number(value: float) -> float | None:
    """Return `value` to four digits; JSON has no NaN, so what is not known is null."""
    return None if math.isnan(value) else round(value, 4)


def main() -> None:
    """Evaluate from the command line."""
    parser = argparse.ArgumentParser(description="Measure a model's answers with the engine that serves it.")
    parser.add_argument("--model", type=Path, default=Path("models/embedded"), help="model folder (%(default)s)")
    parser.add_argument("--data", type=Path, required=True, help="JSON-lines records")
    parser.add_argument("--engine", default="torch", help="(%(default)s)")
    parser.add_argument("--precision", default="auto", help="(%(default)s)")
    parser.add_argument("--limit", type=int, help="take this many records, evenly spread over the file")
    parser.add_argument("--samples", type=int, default=0, help="print this many answers")
    parser.add_argument("--json", type=Path, help="write the JSON there too")
    options = parser.parse_args()
    try:
        records = read_records(options.data)
        if options.limit and options.limit < len(records):
            records = [records[number * len(records) // options.limit] for number in range(options.limit)]
        table, answers = evaluate(records, options.model, options.engine, options.precision)
    except (DataError, EngineError) as error:
        sys.exit(f"evaluate: {error}")
    for record, answer in list(zip(records, answers, strict=True))[: options.samples]:
        print(f"- asked:     {record.turns[-1]}\n  reference: {record.response}\n  answered:  {answer}")
    columns = list(table["model"])
    print(f"{'':16}" + "".join(f"{column:>16}" for column in columns))
    for name, row in table.items():
        print(f"{name:16}" + "".join(f"{row.get(column, float('nan')):>16.3f}" for column in columns))
    rows = {name: {column: _number(value) for column, value in row.items()} for name, row in table.items()}
    result = {"data": options.data.name, "n": len(records), **rows.pop("model"), "baselines": rows}
    text = json.dumps(result)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
