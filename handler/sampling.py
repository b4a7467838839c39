"""From logits to tokens: each row by its own parameters and its own random numbers, all rows in one pass.

The rules are those of `transformers` (generation/logits_process.py), in its order: repetition penalty,
no repeated n-gram, minimum length, then for sampled rows temperature, top-k, top-p. As there, the decoder's
start token counts as history for the first two. Lengths count new tokens only.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from handler.contract.generation import GenerationParameters


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
    tokens = [int(token) for token in best]
    sampled = [index for index, row in enumerate(rows) if row.parameters.do_sample]
    if sampled:
        for index, token in zip(sampled, _draw(logits[sampled], [rows[i] for i in sampled]), strict=True):
            tokens[index] = token
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


def _draw(logits: NDArray[np.float32], rows: Sequence[RowState]) -> list[int]:
    """Return one token drawn for each row; temperature and softmax over all rows, the cut row by row."""
    temperature = np.array([[row.parameters.temperature] for row in rows], dtype=np.float32)
    logits /= temperature
    logits -= logits.max(axis=1, keepdims=True)
    weights = np.exp(logits, out=logits)
    return [_draw_one(row_weights, row) for row_weights, row in zip(weights, rows, strict=True)]


def _draw_one(weights: NDArray[np.float32], row: RowState) -> int:
    """Return a token drawn in proportion to `weights`, after top-k and top-p.

    Nothing is sorted. A token lighter than (1 - top_p) / vocabulary of the whole mass is left out at once: all of that
    kind together weigh less than 1 - top_p, so the nucleus is full before the first of them. A token drawn from the
    rest is right if it lies in the nucleus: if what comes before it, heavier or as heavy and of a lower number, weighs
    less than top_p. If it does not, neither does what comes after it, and the next is drawn from what comes before.
    """
    top_k, top_p = row.parameters.top_k, row.parameters.top_p
    if 0 < top_k < len(weights):
        # As in transformers, every token that ties with the k-th stays.
        tokens = np.flatnonzero(weights >= np.partition(weights, -top_k)[-top_k])
        total = weights[tokens].sum(dtype=np.float64)
    else:
        total = weights.sum(dtype=np.float64)
        tokens = np.flatnonzero(weights >= (1.0 - top_p) / len(weights) * total)
    left = weights[tokens]
    while True:
        mass = np.cumsum(left, dtype=np.float64)
        drawn = int(np.searchsorted(mass, row.random.random() * mass[-1], side="right"))
        before = left > left[drawn]
        before[:drawn] |= left[:drawn] == left[drawn]
        heavier = left[before]
        if heavier.sum(dtype=np.float64) < top_p * total:
            return int(tokens[drawn])
        tokens, left = tokens[before], heavier
