"""Batches of token ids from a weighted mixture of exercises, repeatable from a seed and a position.

A pool of examples is drawn, sorted by length and cut into batches of about as many tokens each, so hardly
any computation goes into padding. A pool depends on the seed and its own number alone: training that was
cut short goes on from (pool, batch) without drawing what came before.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from tokenizers import Tokenizer
from torch import Tensor

from training.data import Pair

Exercise = Callable[[random.Random], Pair]

IGNORED: Final = -100
"""The label of a padded position; cross-entropy leaves it out."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Token ids, shape (rows, longest); `labels` holds IGNORED where a row has ended, `attention` 0 there."""

    prompts: Tensor
    attention: Tensor
    labels: Tensor
    tokens: int
    """Tokens in it, padding not counted."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where in the sequence of batches training stands: the next batch to take."""

    pool: int = 0
    batch: int = 0


@dataclass(frozen=True, slots=True)
class BatchShape:
    """The size of batches: tokens in each, padding included, and the longest prompt and target kept whole."""

    tokens: int = 6144
    prompt: int = 512
    target: int = 128
    pool: int = 2048
    """Examples drawn and sorted together."""


class Mixture:
    """Draws from several exercises in proportion to their weights."""

    def __init__(self, weighted: Sequence[tuple[float, Exercise]]) -> None:
        """Raises ValueError when no weight is positive."""
        if not any(weight > 0 for weight, _ in weighted):
            raise ValueError("a mixture needs a positive weight")
        self._weights = [weight for weight, _ in weighted]
        self._exercises = [exercise for _, exercise in weighted]

    def __call__(self, rng: random.Random) -> Pair:
        """Draw one example."""
        (exercise,) = rng.choices(self._exercises, self._weights)
        return exercise(rng)


def batches(
    exercise: Exercise, tokenizer: Tokenizer, shape: BatchShape, seed: int, start: Position
) -> Iterator[tuple[Batch, Position]]:
    """Yield batches for ever from `start` on, each with the position of the one after it."""
    pool, skipped = start.pool, start.batch
    while True:
        rng = random.Random(f"{seed}:{pool}")  # a string seeds alike in every process, a tuple would not
        pairs = [exercise(rng) for _ in range(shape.pool)]
        cut = collate_all(pairs, tokenizer, shape)
        rng.shuffle(cut)
        for number, rows in enumerate(cut[skipped:], start=skipped + 1):
            following = Position(pool, number) if number < len(cut) else Position(pool + 1, 0)
            yield collate(rows), following
        pool, skipped = pool + 1, 0


def collate_all(
    pairs: Sequence[Pair], tokenizer: Tokenizer, shape: BatchShape
) -> list[list[tuple[list[int], list[int]]]]:
    """Return `pairs` as token ids, cut into batches of rows of like length; too long a pair is left out."""
    prompts = tokenizer.encode_batch([pair.prompt for pair in pairs])
    targets = tokenizer.encode_batch([pair.target for pair in pairs])
    rows = [
        (prompt.ids, target.ids)
        for prompt, target in zip(prompts, targets, strict=True)
        if len(prompt.ids) <= shape.prompt and len(target.ids) <= shape.target
    ]
    rows.sort(key=lambda row: (len(row[0]), len(row[1])))
    cut: list[list[tuple[list[int], list[int]]]] = [[]]
    longest = 0
    for row in rows:
        longest = max(longest, len(row[0]) + len(row[1]))
        if cut[-1] and longest * (len(cut[-1]) + 1) > shape.tokens:
            cut.append([])
            longest = len(row[0]) + len(row[1])
        cut[-1].append(row)
    return [rows for rows in cut if rows]


def collate(rows: Sequence[tuple[list[int], list[int]]]) -> Batch:
    """Return `rows` of (prompt ids, target ids) as one padded batch; the padding's id is 0 and unattended."""
    prompts, attention = _padded([prompt for prompt, _ in rows], 0)
    labels, _ = _padded([target for _, target in rows], IGNORED)
    return Batch(prompts, attention, labels, sum(len(prompt) + len(target) for prompt, target in rows))


def _padded(rows: Sequence[list[int]], filler: int) -> tuple[Tensor, Tensor]:
    longest = max(len(row) for row in rows)
    padded = torch.tensor([row + [filler] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return padded, mask
