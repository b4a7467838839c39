"""Tokens a second of this project's training loop beside transformers' Trainer: same model, records, batch size.

`python -m bench.training --data FILE.jsonl` trains one epoch with each, in turn, several times, and prints a
table and, as its last line, JSON. Rivals: Trainer as it comes (float32, batches in random order padded to their
longest), and the same padded to full length, as GODEL's own script does. All on one process, one machine.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from transformers import DataCollatorForSeq2Seq, PreTrainedTokenizerFast, Trainer, TrainerCallback, TrainingArguments

from bench.machine import machine
from training.batches import Epochs, Row
from training.data import read_records
from training.finetune import to_rows
from training.losses import answer_objective
from training.model_folder import load_model
from training.train import Plan, new_accelerator, train

BATCH = 8
"""Trainer's default."""
MOST_PROMPT, MOST_TARGET = 512, 128
WARM_UP = 3
"""Steps before the clock starts."""


class _Clock(TrainerCallback):
    """Notes when the warm-up was over and when the last step ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.times.append(time.perf_counter())


def ours(model: Path, rows: Sequence[Row]) -> list[float]:
    """Return the times at which steps ended."""
    fresh, _ = load_model(model)
    times: list[float] = []
    source = Epochs(rows, BATCH, seed=1)
    plan = Plan(steps=source.steps, learning_rate=5e-5, schedule="linear", warmup=0, log_every=500, save_every=10**9)
    with tempfile.TemporaryDirectory() as folder:
        train(
            fresh,
            source,
            answer_objective(),
            plan,
            Path(folder),
            new_accelerator(),
            on_step=lambda *_: times.append(time.perf_counter()),
        )
    return times


def trainer(model: Path, rows: Sequence[Row], *, padded: bool) -> list[float]:
    """Return the times at which steps ended."""
    fresh, _ = load_model(model)
    make_tokenizer: Any = PreTrainedTokenizerFast
    tokenizer = make_tokenizer(
        tokenizer_file=str(model / "tokenizer.json"),
        pad_token="<pad>",  # noqa: S106 - a token of text
        eos_token="</s>",  # noqa: S106 - a token of text
    )
    examples = [
        {"input_ids": row.prompt, "attention_mask": [1] * len(row.prompt), "labels": row.target} for row in rows
    ]
    if padded:
        for example in examples:
            missing = MOST_PROMPT - len(example["input_ids"])
            example["input_ids"] = example["input_ids"] + [0] * missing
            example["attention_mask"] = example["attention_mask"] + [0] * missing
            example["labels"] = example["labels"] + [-100] * (MOST_TARGET - len(example["labels"]))
    clock = _Clock()
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            model=fresh,
            args=TrainingArguments(
                folder,
                num_train_epochs=1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                logging_strategy="no",
            ),
            train_dataset=examples,
            data_collator=DataCollatorForSeq2Seq(tokenizer),
            callbacks=[clock],
        ).train()
    return clock.times


def main() -> None:
    """Measure from the command line."""
    parser = argparse.ArgumentParser(description="Training throughput beside transformers' Trainer.")
    parser.add_argument("--model", type=Path, default=Path("models/embedded"), help="model folder (%(default)s)")
    parser.add_argument("--data", type=Path, required=True, help="JSON-lines records")
    parser.add_argument("--records", type=int, default=240, help="drawn from them (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    options = parser.parse_args()
    _, tokenizer = load_model(options.model)
    records = read_records(options.data)
    drawn = random.Random(1).sample(records, min(len(records), options.records))
    rows = to_rows(drawn, tokenizer, MOST_PROMPT, MOST_TARGET)
    tokens = sum(len(row.prompt) + len(row.target) for row in rows)
    contenders: dict[str, Callable[[], list[float]]] = {
        "ours": lambda: ours(options.model, rows),
        "trainer": lambda: trainer(options.model, rows, padded=False),
        "trainer_padded": lambda: trainer(options.model, rows, padded=True),
    }
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(options.rounds):
        for name, run in contenders.items():
            # Each chooses its precision, which accelerate otherwise fixes once a process.
            AcceleratorState._reset_state(True)
            times = run()
            share = (len(times) - WARM_UP) / len(times)  # of the rows, which go on at the same mean length
            rates[name].append(tokens * share / (times[-1] - times[WARM_UP - 1]))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    print(f"{len(rows)} records, {tokens} tokens, batches of {BATCH}, {torch.get_num_threads()} threads")
    for name, value in medians.items():
        print(f"{name:16}{value:10.0f} tokens/s   {' '.join(f'{rate:.0f}' for rate in rates[name])}")
    ratios = {f"train_vs_{name}": round(medians["ours"] / medians[name], 2) for name in medians if name != "ours"}
    print(
        json.dumps(
            {
                "machine": machine(),
                "tokens_per_second": {name: round(value) for name, value in medians.items()},
                **ratios,
            }
        )
    )


if __name__ == "__main__":
    main()
