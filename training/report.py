"""What a set of records is like: counts, lengths, and what the prompt's budget would cut of it."""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from tqdm import tqdm

from handler.contract.prompt import fit, neutralise
from training.data import Record, to_line

BUDGET: Final = 512
"""Tokens of a prompt, as GODEL was trained."""
_NO_LIMIT: Final = 1 << 30


def describe(
    records: Sequence[Record], *, others: Sequence[Record] = (), count_tokens: Callable[[str], int] | None = None
) -> dict[str, Any]:
    """Return the report on `records` as JSON could hold it.

    `duplicates` are records that stood before in full, `also_in_train` those that stand in `others`. `words` and
    `tokens` give mean, median, 95th percentile and most; `tokens` and `cut` are None without `count_tokens`.
    `cut` counts what `handler.contract.prompt.fit` leaves out at `BUDGET` tokens; a record whose newest turn
    alone is longer than that is cut to the turn's end.
    """
    lines = [to_line(record) for record in records]
    known = {to_line(record) for record in others}
    return {
        "records": len(records),
        "duplicates": len(lines) - len(set(lines)),
        "also_in_train": sum(line in known for line in lines),
        "empty_knowledge": sum(not record.knowledge.strip() for record in records),
        "with_answer": sum(record.answer is not None for record in records),
        "turns": _lengths(len(record.turns) for record in records),
        "words": {
            "context": _lengths(sum(len(turn.split()) for turn in record.turns) for record in records),
            "knowledge": _lengths(len(record.knowledge.split()) for record in records),
            "response": _lengths(len(record.response.split()) for record in records),
        },
        **({"tokens": None, "cut": None} if count_tokens is None else _fitted(records, count_tokens)),
    }


def table(reports: dict[str, dict[str, Any]]) -> str:
    """Return `reports` of several splits as text, a column each."""
    rows = {name: dict(_flat(report)) for name, report in reports.items()}
    keys = list(dict.fromkeys(key for row in rows.values() for key in row))
    width = max(map(len, keys))
    lines = [" " * width + "".join(f"{name:>20}" for name in rows)]
    lines += [f"{key:{width}}" + "".join(f"{row.get(key, '-'):>20}" for row in rows.values()) for key in keys]
    return "\n".join(lines)


def _fitted(records: Sequence[Record], count_tokens: Callable[[str], int]) -> dict[str, Any]:
    tokens, responses = [], []
    cut = {"budget": BUDGET, "records": 0, "turns": 0, "knowledge_words": 0, "newest_turn_characters": 0}
    for record in tqdm(records, desc="counting tokens", unit=" records"):
        whole = fit(record.turns, record.knowledge, budget=_NO_LIMIT, count_tokens=count_tokens)
        tokens.append(whole.tokens)
        responses.append(count_tokens(neutralise(record.response)))
        if whole.tokens > BUDGET:
            fitted = fit(record.turns, record.knowledge, budget=BUDGET, count_tokens=count_tokens)
            knowledge = neutralise(record.knowledge)
            kept = knowledge[: len(knowledge) - fitted.knowledge_characters_dropped]
            cut["records"] += 1
            cut["turns"] += fitted.turns_dropped
            cut["knowledge_words"] += len(knowledge.split()) - len(kept.split())
            cut["newest_turn_characters"] += fitted.message_characters_dropped
    return {"tokens": {"prompt": _lengths(tokens), "response": _lengths(responses)}, "cut": cut}


def _lengths(values: Iterable[int]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "mean": round(statistics.mean(ordered), 1),
        "median": statistics.median(ordered),
        "p95": ordered[math.ceil(0.95 * len(ordered)) - 1],
        "most": ordered[-1],
    }


def _flat(report: dict[str, Any], before: str = "") -> Iterable[tuple[str, str]]:
    for name, value in report.items():
        if isinstance(value, dict) and "p95" in value:
            yield f"{before}{name}: mean / p95 / most", f"{value['mean']} / {value['p95']} / {value['most']}"
        elif isinstance(value, dict):
            yield from _flat(value, f"{before}{name} ")
        elif value is not None:
            yield f"{before}{name}", f"{value:,}"
