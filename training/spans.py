"""Span corruption of rows of tokens that are all equally long, so that a batch holds no padding at all.

T5's objective (Raffel et al. 2020, section 3.1.4) over runs of text, cut where they happen to be: as its authors'
`random_spans_noise_mask` places them, as many spans in each row, of a mean length that is the same in each.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from handler.contract.prompt import neutralise
from training.tokenizer import CONTROL_TOKENS, END, SENTINELS

SHARE: Final = 0.15
MEAN_SPAN: Final = 3.0
_RUNS: Final = 64
"""From how many places of the text the rows of one pool are taken."""

Ids = NDArray[np.int64]


def lengths(tokens: int) -> tuple[int, int]:
    """Return how many tokens prompt and target have that are made of so many tokens of text, end tokens included.

    Raises ValueError when the tokenizer has too few sentinels for it, or `tokens` is less than 8.
    """
    noise, spans = _noise(tokens)
    if tokens < 8 or spans > len(SENTINELS):
        raise ValueError(f"spans of {tokens} tokens: use 8 to {int(len(SENTINELS) * MEAN_SPAN / SHARE)}")
    return tokens - noise + spans + 1, noise + spans + 1


def corrupt_tokens(text: Ids, rng: np.random.Generator) -> tuple[Ids, Ids]:
    """Return prompts and targets of `text` (rows, tokens), of the `lengths` of its tokens.

    In a prompt a sentinel stands for each span; the target holds each sentinel and its span.
    """
    rows, tokens = text.shape
    noise, spans = _noise(tokens)
    # A row is kept text, span, kept text, span, ...: where each part begins, counted along the row.
    parts = np.empty((rows, 2 * spans), np.int64)
    parts[:, 0::2] = _segments(rows, tokens - noise, spans, rng)
    parts[:, 1::2] = _segments(rows, noise, spans, rng)
    begins = np.zeros((rows, tokens), np.int64)
    np.put_along_axis(begins, parts.cumsum(1)[:, :-1], 1, 1)
    part = begins.cumsum(1)
    begins[:, 0] = 1
    in_span = part % 2 == 1
    sentinel = CONTROL_TOKENS.index(SENTINELS[0]) + part // 2
    end = np.full((rows, 1), CONTROL_TOKENS.index(END))

    def side(left_out: NDArray[np.bool_]) -> Ids:
        """Return the rows with a sentinel in place of each part that is left out."""
        marked = left_out & (begins == 1)
        kept = np.where(marked, sentinel, text)[~left_out | marked]
        return np.concatenate([kept.reshape(rows, -1), end], 1)

    return side(in_span), side(~in_span)


def read_runs(paragraphs: Sequence[str], tokenizer: Tokenizer, rows: int, tokens: int, seed: tuple[int, int]) -> Ids:
    """Return `rows` rows of `tokens` tokens of running text, from places drawn by `seed`."""
    rng = np.random.default_rng(seed)
    wanted = -(-rows // _RUNS) * tokens
    found: list[Ids] = []
    while sum(map(len, found)) < rows * tokens:
        number, run = int(rng.integers(len(paragraphs))), 0
        while run < wanted:
            ids = tokenizer.encode(neutralise(paragraphs[number]), add_special_tokens=False).ids
            found.append(np.array(ids, np.int64))
            run += len(ids)
            number = (number + 1) % len(paragraphs)
    return np.concatenate(found)[: rows * tokens].reshape(rows, tokens)


def _noise(tokens: int) -> tuple[int, int]:
    """Return how many tokens are taken out, and in how many spans."""
    noise = max(1, round(tokens * SHARE))
    return noise, max(1, round(noise / MEAN_SPAN))


def _segments(rows: int, length: int, count: int, rng: np.random.Generator) -> Ids:
    """Return the lengths, each at least 1, of `count` parts that `length` is cut into, anew in each row."""
    cuts = np.zeros((rows, length), np.int64)
    cuts[:, 1:count] = 1
    cuts[:, 1:] = rng.permuted(cuts[:, 1:], axis=1)
    places = np.nonzero(cuts)[1].reshape(rows, count - 1)
    return np.diff(places, axis=1, prepend=0, append=length)
