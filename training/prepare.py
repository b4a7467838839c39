"""Makes a data folder: train.jsonl, validation.jsonl and a report, from one of three sources.

`python -m training.data --dstc9 clone --output build/data/dstc9`; `--help` has the rest.
"""

import argparse
import json
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from handler.engines.base import EngineError
from handler.tokenization import Tokenization
from training.command_line import share
from training.data import DataError, Record, read_records, to_line
from training.dstc9 import URL, find_dstc9, read_dstc9, sample
from training.report import describe, table
from training.squad import read_squad
from training.whole_file import check_writable, write_whole

FILES: Final = {"train": "train.jsonl", "validation": "validation.jsonl"}
REPORT: Final = "report.json"


def split_by_passage(
    records: Sequence[Record], validation_share: float, seed: int
) -> tuple[list[Record], list[Record]]:
    """Return training and validation records, both in order; no passage stands on both sides.

    About `validation_share` of the passages, drawn by `seed`, at least one, go to validation; records without
    knowledge go by their dialogue. Raises DataError when there is but one passage.
    """
    passages = list(dict.fromkeys(_passage(record) for record in records))
    if len(passages) < 2:
        raise DataError("all records have the same passage; give a file for --validation")
    count = min(max(1, round(validation_share * len(passages))), len(passages) - 1)
    held = set(random.Random(seed).sample(passages, count))
    return (
        [record for record in records if _passage(record) not in held],
        [record for record in records if _passage(record) in held],
    )


def read_source(options: argparse.Namespace) -> dict[str, list[Record]]:
    """Return the records of each split, as the command line asks for. Raises DataError."""
    if options.dstc9:
        folder = find_dstc9(options.dstc9, options.cache)
        splits = {split: read_dstc9(folder, split) for split in FILES}
    else:
        path: Path = options.squad or options.jsonl

        def read(file: Path) -> list[Record]:
            if options.squad:
                return read_squad(file, unanswerable=options.unanswerable, seed=options.seed)
            return read_records(file)

        if options.validation:
            splits = {"train": read(path), "validation": read(options.validation)}
        else:
            train, validation = split_by_passage(read(path), options.validation_share, options.seed)
            splits = {"train": train, "validation": validation}
    if options.sample is not None:
        splits["train"] = sample(splits["train"], options.sample, options.seed)
        if not splits["train"]:
            raise DataError(f"--sample {options.sample} left no training record")
    return splits


def main() -> None:
    """Make a data folder from the command line."""
    options = _options()
    try:
        places = {split: options.output / name for split, name in FILES.items()}
        for path in (*places.values(), options.output / REPORT):
            check_writable(path)
        count_tokens = _counter(options.tokenizer)
        splits = read_source(options)
        reports = {
            split: describe(records, others=splits["train"] if split != "train" else (), count_tokens=count_tokens)
            for split, records in splits.items()
        }
        texts = {
            places[split]: "".join(f"{to_line(record)}\n" for record in records) for split, records in splits.items()
        }
        write_whole(texts | {options.output / REPORT: json.dumps(reports, indent=1) + "\n"})
    except (DataError, EngineError, OSError) as error:
        sys.exit(f"data: {error}")
    print(table(reports))
    print(f"written: {', '.join(str(path) for path in places.values())} and {options.output / REPORT}")


def _counter(tokenizer: Path | None) -> Callable[[str], int] | None:
    if tokenizer is None:
        return None
    tokenization = Tokenization(tokenizer)
    return lambda text: len(tokenization.encode(text))


def _passage(record: Record) -> str | tuple[str, ...]:
    return " ".join(record.knowledge.split()) or record.turns


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.data",
        description="Make training data: train.jsonl, validation.jsonl and report.json (counts, lengths, duplicates,"
        ' what a prompt of 512 tokens cuts) in one folder. A record is {"Context": turns joined by " EOS ",'
        ' "Knowledge": the passage, "Response": what to say}, with "Answer", the span, where it is known.',
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--dstc9",
        metavar="FOLDER|URL|clone",
        help=f"DSTC9 track 1, its own train and validation: a clone's folder, or where to clone it ({URL})",
    )
    source.add_argument("--squad", type=Path, metavar="FILE", help="SQuAD's JSON, version 1.1 or 2")
    source.add_argument("--jsonl", type=Path, metavar="FILE", help="records as above, one a line; each is checked")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="where the files go")
    parser.add_argument(
        "--validation", type=Path, metavar="FILE", help="validation data, of the format that --squad or --jsonl names"
    )
    parser.add_argument(
        "--validation_share",
        type=share,
        default=0.05,
        help="without --validation: hold back this share of the passages, with all their records (%(default)s)",
    )
    parser.add_argument(
        "--sample", type=share, metavar="SHARE", help="keep this share of train; GODEL's recipe takes 0.025 of DSTC9"
    )
    parser.add_argument("--seed", type=int, default=2022, help="of every draw (%(default)s, as GODEL's)")
    parser.add_argument(
        "--unanswerable",
        action="store_true",
        help="--squad: keep questions that the passage does not answer, with a reply that says so",
    )
    parser.add_argument("--tokenizer", type=Path, metavar="FILE", help="a tokenizer.json: report tokens and cuts too")
    parser.add_argument(
        "--cache", type=Path, default=Path("build/clones"), metavar="FOLDER", help="where clones go (%(default)s)"
    )
    options = parser.parse_args()
    if options.dstc9 and options.validation:
        parser.error("--validation: DSTC9 has a validation split of its own")
    if options.unanswerable and not options.squad:
        parser.error("--unanswerable goes with --squad")
    return options
