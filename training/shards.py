"""Rows drawn and tokenised beforehand, in memory-mapped files: `python -m training.shards RECIPE --data FOLDER`.

Drawing and tokenising keeps up with a CPU, not with a GPU. So a recipe's stage may say how many `rows` it wants made
before it trains, by all cores; training then only gathers them into batches, some fifty times as fast. A pool of rows
is two files, token ids and a table of where rows lie in them; a run cut short keeps the pools that are whole.
"""

import argparse
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tqdm import tqdm

from training.batches import (
    IGNORED,
    Batch,
    BatchShape,
    Exercise,
    Position,
    Row,
    Share,
    choice_targets,
    cut_lengths,
    some,
    to_rows,
)
from training.command_line import whole
from training.mixtures import Material, RecipeError, build_mixture
from training.recipe import FAILURES, recipe_parser, recipe_tokenizer, recipe_vectors, recipe_with_files
from training.run_folder import RunFolderError, keep_options
from training.spans import corrupt_tokens, lengths, read_runs

_IDS, _TABLE = "{:05}.ids.npy", "{:05}.rows.npy"
_FIELDS: Final = 6
"""Of a row in the table: tokens of prompt and target, offered from and to, chosen from and to; its ids lie in order."""

MakeRows = Callable[[int], list[Row]]
"""Makes the rows of a pool, given its number."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A source that reads pools of rows which `make_shards` has written to `folder`, round and round."""

    folder: Path
    shape: BatchShape
    seed: int
    share: Share
    multiple: int = 8
    """Prompts and targets are padded to a multiple of so many tokens, as a GPU's kernels like it."""

    def batches(self, start: Position) -> Iterator[tuple[list[Batch], Position]]:
        """See Source. Raises RunFolderError when there is no pool."""
        pools = count_pools(self.folder)
        if not pools:
            raise RunFolderError(f"{self.folder} holds no rows; make them first: python -m training.shards --help")
        pool, skipped = start.pool, start.batch
        while True:
            table = np.load(self.folder / _TABLE.format(pool % pools))
            ids = np.load(self.folder / _IDS.format(pool % pools), mmap_mode="r")
            starts = np.concatenate([[0], (table[:, 0] + table[:, 1]).cumsum()[:-1]])
            rng = random.Random(f"{self.seed}:{pool}")
            # Rows of one length come in an order of their own each time round.
            order = rng.sample(range(len(table)), len(table))
            cut = cut_lengths([(int(p), int(t)) for p, t in table[order, :2]], self.shape.tokens)
            rng.shuffle(cut)
            for number, chosen in enumerate(cut[skipped:], start=skipped + 1):
                following = Position(pool, number) if number < len(cut) else Position(pool + 1, 0)
                rows = np.array([order[each] for each in chosen])
                yield [self._collate(ids, table, starts, rows, part) for part in self.share.deal(len(rows))], following
            pool, skipped = pool + 1, 0

    def _collate(
        self, ids: NDArray[np.uint16], table: NDArray[np.int32], starts: NDArray[np.int64], rows: Any, part: range
    ) -> Batch:
        """Return the rows of `part` as `training.batches.collate` would; an empty part is a row without a target."""
        mine = rows[part.start : part.stop : part.step]
        fields, begin = table[mine if len(mine) else rows[:1]].astype(np.int64), starts[mine if len(mine) else rows[:1]]
        if not len(mine):
            fields[:, 1:] = 0
        step = table[rows].astype(np.int64)
        prompt, target = fields[:, 0], fields[:, 1]
        prompts, inside = self._gathered(ids, begin, prompt, 0)
        labels, _ = self._gathered(ids, begin + prompt, target, IGNORED)
        place = np.arange(prompts.shape[1])

        def marked(first: int) -> torch.Tensor:
            return torch.from_numpy((place >= fields[:, first, None]) & (place < fields[:, first + 1, None]))

        return Batch(
            torch.from_numpy(prompts),
            torch.from_numpy(inside.astype(np.int64)),
            torch.from_numpy(labels),
            marked(2),
            marked(4),
            int(prompt.sum() + target.sum()),
            int(target.sum()),
            choice_targets(_choices(fields), _choices(step), int(step[:, 1].sum())),
            int((prompt * prompt).sum()),
            int((target * (target + prompt)).sum()),
            not inside.all(),
        )

    def _gathered(
        self, ids: NDArray[np.uint16], begin: NDArray[np.int64], length: NDArray[np.int64], filler: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the ids from `begin` on, `filler` beyond each row's `length`, and where a row is inside of it."""
        # Rows that are all as long stay as they are: they need no padding, and so no mask.
        longest = max(1, int(length.max()))
        if length.min() != longest:
            longest = -(-longest // self.multiple) * self.multiple
        place = np.arange(longest)
        inside = place < length[:, None]
        taken = ids[np.minimum(begin[:, None] + place, len(ids) - 1)].astype(np.int64)
        return np.where(inside, taken, filler), inside


def _choices(fields: NDArray[np.int64]) -> int:
    """Return how many rows of a table have something chosen."""
    return int((fields[:, 4] < fields[:, 5]).sum())


def count_pools(folder: Path) -> int:
    """Return how many pools of rows `folder` holds, from the first one on."""
    count = 0
    while (folder / _TABLE.format(count)).is_file():
        count += 1
    return count


def row_maker(
    stage: Mapping[str, Any], material: Material, tokenizer: Tokenizer, shape: BatchShape, seed: int
) -> MakeRows:
    """Return what makes the pools of a recipe's stage: rows of its `mixture`, and a `share` of `spans` of running text.

    Without a share all rows are spans. Raises RecipeError and ValueError for a stage that cannot be made;
    making a pool raises DataError when all that is drawn for it is too long.
    """
    spans: Mapping[str, Any] = stage.get("spans", {"share": 0})
    of_text = round(shape.pool * float(spans.get("share", 1)))
    if not 0 <= of_text <= shape.pool or (of_text < shape.pool and "mixture" not in stage):
        raise RecipeError(f"{stage.get('name')}: spans need a share from 0 to 1, and a mixture beside them below 1")
    if of_text:
        paragraphs, tokens = material.passages().paragraphs, int(spans["tokens"])
        lengths(tokens)  # says so where it does not do
    exercise: Exercise | None = build_mixture(stage["mixture"], material) if of_text < shape.pool else None

    def drawn(pool: int) -> list[Row]:
        rows: list[Row] = []
        if of_text:
            text = read_runs(paragraphs, tokenizer, of_text, tokens, (seed, pool))
            prompts, targets = corrupt_tokens(text, np.random.default_rng((seed, pool, 1)))
            rows += [Row(p, t) for p, t in zip(prompts.tolist(), targets.tolist(), strict=True)]
        if exercise:
            rng = random.Random(f"{seed}:{pool}")
            rows += to_rows([exercise(rng) for _ in range(shape.pool - of_text)], tokenizer, shape)
        return some(rows, shape, str(stage.get("name", "")))

    return drawn


def make_shards(
    make_rows: MakeRows,
    folder: Path,
    pools: int,
    *,
    processes: int,
    made_of: Mapping[str, Any],
    files: Mapping[str, Path] | None = None,
) -> int:
    """Write so many pools to `folder`, those that it lacks, and return how many tokens all hold.

    `made_of`, and the contents of `files`, decide the rows: a folder of other rows is refused. Raises RunFolderError,
    OSError and what making rows raises.
    """
    folder.mkdir(parents=True, exist_ok=True)
    keep_options(folder, made_of, files=files)
    missing = [pool for pool in range(pools) if not (folder / _TABLE.format(pool)).is_file()]
    global _working  # what forked processes find where they begin: rows' sources are too large to send
    _working = make_rows, folder
    # More threads in each of the processes would only be in each other's way.
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        with ProcessPoolExecutor(processes, get_context("fork")) as workers:
            for _ in tqdm(workers.map(_write_pool, missing), total=len(missing), desc=folder.name, unit=" pools"):
                pass
    finally:
        _working = None
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before
    return sum(len(np.load(folder / _IDS.format(pool), mmap_mode="r")) for pool in range(pools))


_working: tuple[MakeRows, Path] | None = None


def _write_pool(pool: int) -> None:
    assert _working  # noqa: S101 - set before the process was forked
    make_rows, folder = _working
    rows = make_rows(pool)
    table = np.array(
        [(len(r.prompt), len(r.target), r.offered.start, r.offered.stop, r.chosen.start, r.chosen.stop) for r in rows],
        np.int32,
    ).reshape(len(rows), _FIELDS)
    ids = np.concatenate([np.array(row.prompt + row.target, np.uint16) for row in rows])
    # The table comes last: a pool is there when its table is.
    for name, values in ((_IDS, ids), (_TABLE, table)):
        half = folder / f".{name.format(pool)}.half"
        with half.open("wb") as file:
            np.save(file, values)
        half.replace(folder / name.format(pool))


def shard_folder(folder: Path, number: int, stage: Mapping[str, Any]) -> Path:
    """Return where a run in `folder` keeps the rows of its stage."""
    return folder / "shards" / f"{number}-{stage['name']}"


def prepare(recipe: Mapping[str, Any], tokenizer: Tokenizer, material: Material, folder: Path, processes: int) -> None:
    """Make the rows of all stages of `recipe` that want some made, for a run in `folder`; print what was made."""
    if tokenizer.get_vocab_size() > np.iinfo(np.uint16).max:
        raise RecipeError(f"rows hold ids below {np.iinfo(np.uint16).max}; the tokenizer has more tokens")
    for number, stage in wanting(recipe):
        shape, seed = BatchShape(**stage.get("shape", {})), recipe["seed"] + number
        began = time.monotonic()
        tokens = make_shards(
            row_maker(stage, material, tokenizer, shape, seed),
            shard_folder(folder, number, stage),
            -(-int(stage["rows"]) // shape.pool),
            processes=processes,
            made_of={
                "rows_of": {key: stage[key] for key in ("mixture", "spans") if key in stage},
                "longest": [shape.prompt, shape.target],
                "pool": shape.pool,
                "seed": seed,
            },
            files=material.files(stage),
        )
        print(f"{stage['name']}: {tokens / 1e6:.1f} M tokens of rows in {time.monotonic() - began:.0f} s")


def wanting(recipe: Mapping[str, Any]) -> Sequence[tuple[int, Mapping[str, Any]]]:
    """Return the stages that want rows made beforehand, with their numbers from 1."""
    return [(number, stage) for number, stage in enumerate(recipe["stages"], start=1) if "rows" in stage]


def main() -> None:
    """Make a recipe's rows from the command line."""
    parser = recipe_parser("training.shards", "Draw and tokenise, by all cores, the rows that a recipe trains on.")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--processes", type=whole(1), default=cores, metavar="N", help="(default: %(default)s, all)")
    options: argparse.Namespace = parser.parse_args()
    try:
        recipe, data, text, folder = recipe_with_files(options)
        tokenizer = recipe_tokenizer(recipe["tokenizer"], data, text, folder)
        recipe_vectors(recipe, text, tokenizer, folder)  # here, where no GPU waits for them
        prepare(recipe, tokenizer, Material(data, text), folder, options.processes)
    except FAILURES as error:
        sys.exit(f"shards: {' '.join(str(error).split())}")
    except (KeyError, TypeError) as error:
        sys.exit(f"shards: {options.recipe}: {error}")
    except KeyboardInterrupt:
        sys.exit("shards: stopped; the same command goes on")


if __name__ == "__main__":
    main()
