"""Batches of token ids, repeatable from a seed and a position, and shared out to several processes.

Rows of like length stand together, so hardly any computation goes into padding. What a batch holds depends
on the seed and the position alone: training that was cut short goes on without drawing what came before, and
several processes draw the same batch and take a share each.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import torch
from tokenizers import Encoding, Tokenizer
from torch import Tensor

from handler.contract.prompt import KNOWLEDGE_TAG
from training.data import DataError, Pair

Exercise = Callable[[random.Random], Pair]

IGNORED: Final = -100
"""The label of a padded position; cross-entropy leaves it out."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Token ids, shape (rows, longest); `labels` holds IGNORED where a row has ended, `attention` 0 there.

    `offered` and `chosen`, of the prompts' shape, are True at the tokens that could have been chosen (the
    knowledge and its tag) and at those that were: see `chosen_tokens`. Both are False throughout a row whose
    target stands nowhere in the knowledge.
    """

    prompts: Tensor
    attention: Tensor
    labels: Tensor
    offered: Tensor
    chosen: Tensor
    tokens: int
    """Tokens of prompts and targets, padding not counted."""
    targets: int
    """Tokens of targets, padding not counted."""
    choice_targets: float
    """As how many tokens of targets this batch's choices count: of the whole step's targets, its part of the step's
    rows with something chosen. So the choices weigh the same however the step is shared out."""
    prompt_pairs: int
    """Pairs of positions that attend to each other in the prompts, padding not counted; the same of the targets, whose
    tokens attend to targets and prompts."""
    target_pairs: int
    padded: bool
    """Whether any prompt is shorter than the longest; without padding no mask is needed."""

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on `device`; to a GPU it is copied while other work goes on."""
        pin = device.type == "cuda"

        def moved(tensor: Tensor) -> Tensor:
            return (tensor.pin_memory() if pin else tensor).to(device, non_blocking=pin)

        return replace(
            self,
            prompts=moved(self.prompts),
            attention=moved(self.attention),
            labels=moved(self.labels),
            offered=moved(self.offered),
            chosen=moved(self.chosen),
        )


@dataclass(frozen=True, slots=True)
class Row:
    """One example as token ids, and the ranges of prompt tokens that are `offered` and `chosen` in it."""

    prompt: list[int]
    target: list[int]
    offered: range = range(0)
    chosen: range = range(0)


@dataclass(frozen=True, slots=True)
class Position:
    """Where in the sequence of batches training stands: the next batch to take, of which pool or epoch."""

    pool: int = 0
    batch: int = 0


@dataclass(frozen=True, slots=True)
class Share:
    """Which part of each step's rows this process computes, and in how many batches one after another."""

    rank: int = 0
    of: int = 1
    accumulation: int = 1

    def split(self, rows: Sequence[Row]) -> list[list[Row]]:
        """Return this process' rows, a list for each batch; every row falls to one batch of one process.

        A batch that would be empty gets a row without a target: it adds nothing to any sum.
        """
        blank = replace(rows[0], target=[], offered=range(0), chosen=range(0))
        return [[rows[number] for number in part] or [blank] for part in self.deal(len(rows))]

    def batches(self, step: Sequence[Row]) -> list["Batch"]:
        """Return this process' batches of the step that has these rows."""
        return [collate(part, step) for part in self.split(step)]

    def deal(self, rows: int) -> list[range]:
        """Return the numbers of this process' rows of so many, a range for each batch, empty ones too."""
        parts, first = self.of * self.accumulation, self.rank * self.accumulation
        return [range(first + part, rows, parts) for part in range(self.accumulation)]


class Source(Protocol):
    """Where a training run takes its batches from."""

    def batches(self, start: Position) -> Iterator[tuple[list[Batch], Position]]:
        """Yield this process' batches of each step for ever from `start` on, and the position of the next step."""


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


@dataclass(frozen=True, slots=True)
class Drawn:
    """A source without end: pools of examples drawn from an exercise, cut into batches of about as many tokens."""

    exercise: Exercise
    tokenizer: Tokenizer
    shape: BatchShape
    seed: int
    share: Share = Share()

    def batches(self, start: Position) -> Iterator[tuple[list[Batch], Position]]:
        """See Source. Raises DataError when all that was drawn for a pool is too long."""
        pool, skipped = start.pool, start.batch
        while True:
            rng = random.Random(f"{self.seed}:{pool}")  # a string seeds alike in every process, a tuple would not
            pairs = [self.exercise(rng) for _ in range(self.shape.pool)]
            cut = cut_by_tokens(some(to_rows(pairs, self.tokenizer, self.shape), self.shape), self.shape.tokens)
            rng.shuffle(cut)
            for number, rows in enumerate(cut[skipped:], start=skipped + 1):
                following = Position(pool, number) if number < len(cut) else Position(pool + 1, 0)
                yield self.share.batches(rows), following
            pool, skipped = pool + 1, 0


@dataclass(frozen=True, slots=True)
class Epochs:
    """A source that goes through all rows again and again, `rows_a_step` at a time, in a new order each epoch."""

    rows: Sequence[Row]
    rows_a_step: int
    seed: int
    share: Share = Share()
    window: int = 64
    """Steps whose rows are sorted by length together."""

    @property
    def steps(self) -> int:
        """How many steps an epoch has."""
        return -(-len(self.rows) // self.rows_a_step)

    def batches(self, start: Position) -> Iterator[tuple[list[Batch], Position]]:
        """See Source; a position's pool is the epoch."""
        epoch, skipped = start.pool, start.batch
        while True:
            rng = random.Random(f"{self.seed}:{epoch}")
            order = rng.sample(range(len(self.rows)), len(self.rows))
            together = self.rows_a_step * self.window
            order = [
                number
                for first in range(0, len(order), together)
                for number in sorted(order[first : first + together], key=self._length)
            ]
            cut = [order[first : first + self.rows_a_step] for first in range(0, len(order), self.rows_a_step)]
            rng.shuffle(cut)
            for number, numbers in enumerate(cut[skipped:], start=skipped + 1):
                following = Position(epoch, number) if number < len(cut) else Position(epoch + 1, 0)
                yield self.share.batches([self.rows[n] for n in numbers]), following
            epoch, skipped = epoch + 1, 0

    def _length(self, number: int) -> tuple[int, int]:
        row = self.rows[number]
        return len(row.prompt), len(row.target)


def to_rows(pairs: Sequence[Pair], tokenizer: Tokenizer, shape: BatchShape) -> list[Row]:
    """Return `pairs` as token ids; too long a pair is left out."""
    prompts = tokenizer.encode_batch([pair.prompt for pair in pairs])
    targets = tokenizer.encode_batch([pair.target for pair in pairs])
    return [
        Row(prompt.ids, target.ids, *chosen_tokens(pair, prompt))
        for pair, prompt, target in zip(pairs, prompts, targets, strict=True)
        if len(prompt.ids) <= shape.prompt and len(target.ids) <= shape.target
    ]


def some(rows: list[Row], shape: BatchShape, stage: str = "") -> list[Row]:
    """Return the rows of a pool. Raises DataError, with the stage's name, when it has none: all were too long."""
    if not rows:
        raise DataError(
            f"{stage and f'{stage}: '}none of the {shape.pool} examples drawn is short enough;"
            f" a prompt may have {shape.prompt} tokens, a target {shape.target}"
        )
    return rows


def cut_by_tokens(rows: Sequence[Row], tokens: int) -> list[list[Row]]:
    """Return `rows`, sorted by length, in batches of at most `tokens` with padding, one row at least."""
    lengths = [(len(row.prompt), len(row.target)) for row in rows]
    return [[rows[number] for number in part] for part in cut_lengths(lengths, tokens)]


def cut_lengths(lengths: Sequence[tuple[int, int]], tokens: int) -> list[list[int]]:
    """Return the numbers of rows, of so long prompts and targets, as `cut_by_tokens` cuts them."""
    cut: list[list[int]] = [[]]
    longest = 0
    for number in sorted(range(len(lengths)), key=lengths.__getitem__):
        length = sum(lengths[number])
        longest = max(longest, length)
        if cut[-1] and longest * (len(cut[-1]) + 1) > tokens:
            cut.append([])
            longest = length
        cut[-1].append(number)
    return [part for part in cut if part]


def chosen_tokens(pair: Pair, prompt: Encoding) -> tuple[range, range]:
    """Return which tokens of the prompt offer an answer, and which of them the target was taken from.

    Offered are the knowledge and its tag. Chosen is the last place in the knowledge where the pair's grounds,
    or else its target, stand word for word; the tag, where there are no grounds in it. Otherwise both are empty.
    """
    nothing = range(0), range(0)
    tag = pair.prompt.find(KNOWLEDGE_TAG)
    first = prompt.char_to_token(tag) if tag >= 0 else None
    if first is None:
        return nothing
    offered = range(first, len(prompt.ids) - 1)
    grounds = pair.target if pair.grounds is None else pair.grounds
    if not grounds:
        return offered, range(first, first + 1)
    start = pair.prompt.rfind(grounds)
    begins, ends = prompt.char_to_token(max(0, start)), prompt.char_to_token(start + len(grounds) - 1)
    if start <= tag or begins is None or ends is None:
        return nothing
    return offered, range(begins, ends + 1)


def choice_targets(mine: int, all_rows: int, targets: int) -> float:
    """Return a batch's `choice_targets`: `mine` of the step's `all_rows` with something chosen, and its `targets`."""
    return targets * mine / all_rows if all_rows else 0.0


def collate(rows: Sequence[Row], step: Sequence[Row] | None = None) -> Batch:
    """Return `rows`, a share of those of `step` or all of it, as one padded batch; its filler is 0 and unattended."""
    step = rows if step is None else step
    prompts, attention = _padded([row.prompt for row in rows], 0)
    labels, _ = _padded([row.target for row in rows], IGNORED)
    place = torch.arange(prompts.shape[1])

    def marked(ranges: Sequence[range]) -> Tensor:
        first, last = torch.tensor([[r.start, r.stop] for r in ranges]).T.unsqueeze(-1)
        inside: Tensor = (place >= first) & (place < last)
        return inside

    lengths = [(len(row.prompt), len(row.target)) for row in rows]
    targets = sum(target for _, target in lengths)
    return Batch(
        prompts,
        attention,
        labels,
        marked([row.offered for row in rows]),
        marked([row.chosen for row in rows]),
        sum(prompt for prompt, _ in lengths) + targets,
        targets,
        choice_targets(
            sum(bool(row.chosen) for row in rows),
            sum(bool(row.chosen) for row in step),
            sum(len(row.target) for row in step),
        ),
        sum(prompt * prompt for prompt, _ in lengths),
        sum(target * (target + prompt) for prompt, target in lengths),
        any(prompt < prompts.shape[1] for prompt, _ in lengths),
    )


def _padded(rows: Sequence[list[int]], filler: int) -> tuple[Tensor, Tensor]:
    longest = max(1, *map(len, rows))
    padded = torch.tensor([row + [filler] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return padded, mask
