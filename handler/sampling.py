"""From logits to tokens: each row by its own parameters and its own random numbers.

The rules are those of `transformers` (generation/logits_process.py), in its order: repetition penalty,
no repeated n-gram, minimum length, then for sampled rows temperature, top-k, top-p. As there, the decoder's
start token counts as history for the first two. Lengths count new tokens only.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from handler.contract.generation import GenerationParameters

_BLOCK: Final = 128
"""So many tokens are summed up before the one that is drawn is looked for among them."""


class NumericalError(RuntimeError):
    """A row of logits holds no usable number."""


class RowState:
    """What the sampler remembers of one request: parameters, tokens so far, random stream, seen n-grams."""

    __slots__ = ("_followers", "history", "parameters", "random")

    def __init__(self, parameters: GenerationParameters, decoder_start_token_id: int) -> None:
        self.parameters: Final = parameters
        self.history: Final = [decoder_start_token_id]
        self.random: Final = np.random.default_rng(parameters.seed)
        self._followers: Final[dict[tuple[int, ...], list[int]]] = {}
        self._remember_last_ngram()

    @property
    def new_tokens(self) -> list[int]:
        """The tokens of the answer so far, start token left out."""
        return self.history[1:]

    @property
    def length(self) -> int:
        """How many tokens the answer has so far."""
        return len(self.history) - 1

    def append(self, token: int) -> None:
        """Add `token` to the answer."""
        self.history.append(token)
        self._remember_last_ngram()

    def _remember_last_ngram(self) -> None:
        size = self.parameters.no_repeat_ngram_size
        if size and len(self.history) >= size:
            *prefix, last = self.history[-size:]
            self._followers.setdefault(tuple(prefix), []).append(last)

    def banned(self) -> list[int]:
        """Return the tokens that would repeat an n-gram of the answer."""
        size = self.parameters.no_repeat_ngram_size
        if not size or len(self.history) < size - 1:
            return []
        prefix = tuple(self.history[len(self.history) - size + 1 :])
        return self._followers.get(prefix, [])


def next_tokens(logits: NDArray[np.float32], rows: Sequence[RowState], eos_token_id: int) -> list[int]:
    """Return one token for each row and append it to the row's history.

    `logits` has shape (len(rows), vocabulary) and is overwritten. Raises NumericalError when the
    largest of a row is no finite number, which means a broken model or a precision it cannot bear.
    """
    _apply_rules(logits, rows, eos_token_id)
    best = logits.argmax(axis=1)
    if not np.isfinite(logits[np.arange(len(rows)), best]).all():
        raise NumericalError("the model's output is not a number")
    tokens = [
        _draw(scores, scores[heaviest], row) if row.parameters.do_sample else int(heaviest)
        for scores, heaviest, row in zip(logits, best, rows, strict=True)
    ]
    for row, token in zip(rows, tokens, strict=True):
        row.append(token)
    return tokens


def _apply_rules(logits: NDArray[np.float32], rows: Sequence[RowState], eos_token_id: int) -> None:
    for scores, row in zip(logits, rows, strict=True):
        parameters = row.parameters
        if parameters.repetition_penalty != 1.0:
            seen = list(set(row.history))
            before = scores[seen]
            scores[seen] = np.where(
                before < 0, before * parameters.repetition_penalty, before / parameters.repetition_penalty
            )
        if banned := row.banned():
            scores[banned] = -np.inf
        if row.length < parameters.min_length:
            scores[eos_token_id] = -np.inf


def _draw(scores: NDArray[np.float32], highest: np.float32, row: RowState) -> int:
    """Return a token drawn for `row`; `scores` are overwritten with their softmax, not divided by its sum."""
    scores -= highest
    if row.parameters.temperature != 1.0:
        scores /= np.float32(row.parameters.temperature)
    return _draw_weighted(np.exp(scores, out=scores), row)


def _draw_weighted(weights: NDArray[np.float32], row: RowState) -> int:
    """Return a token drawn in proportion to `weights`, after top-k and top-p.

    Nothing is sorted. A token drawn from all is right if it lies in the nucleus: if what comes before it, heavier or as
    heavy and of a lower number, weighs less than top_p of all. If it does not, neither does what comes after it, and
    the next is drawn from what comes before.
    """
    top_k, top_p = row.parameters.top_k, row.parameters.top_p
    if 0 < top_k < len(weights):
        # As in transformers, every token that ties with the k-th stays.
        weights = np.where(weights >= np.partition(weights, -top_k)[-top_k], weights, np.float32(0))
    blocks = _block_sums(weights)
    enough = top_p * blocks[-1]
    while True:
        block, point = _place(blocks, row.random.random() * blocks[-1])
        within = np.cumsum(weights[block * _BLOCK : (block + 1) * _BLOCK], dtype=np.float64)
        # The block's two sums differ by rounding: the same share of the other one.
        drawn = block * _BLOCK + _place(within, point * within[-1])[0]
        before = weights > weights[drawn]
        before[:drawn] |= weights[:drawn] == weights[drawn]
        heavier = weights * before
        if heavier.sum() < enough:
            return drawn
        weights, blocks = heavier, _block_sums(heavier)


def _block_sums(weights: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the running sums of `weights` at the end of each block."""
    return np.cumsum(np.add.reduceat(weights, np.arange(0, len(weights), _BLOCK)), dtype=np.float64)


def _place(sums: NDArray[np.float64], point: float) -> tuple[int, float]:
    """Return which of the parts with these running sums `point` lies in, never an empty one, and how far in, 0..1."""
    index = int(np.searchsorted(sums, min(point, np.nextafter(sums[-1], 0)), side="right"))
    start = sums[index - 1] if index else 0.0
    return index, (point - start) / (sums[index] - start)
