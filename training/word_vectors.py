"""Vectors of tokens from what stands near them: tokens used alike lie together before training begins.

Positive pointwise mutual information of pairs within a few tokens, the nearer the more, then its largest singular
vectors (Levy, Goldberg and Dagan, "Improving Distributional Similarity with Lessons Learned from Word Embeddings",
2015: contexts smoothed by 0.75, singular values by their root). A minute for millions of tokens.
"""

from collections.abc import Iterable
from itertools import islice
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor

Counts = npt.NDArray[np.float32]

_NEAR: Final = 5
"""Tokens on each side that count as near."""
_SMOOTHING: Final = 0.75
_LEAST: Final = 20
"""A token met less often keeps no vector: it would be chance."""
_DOCUMENTS: Final = 256


def word_vectors(texts: Iterable[str], tokenizer: Tokenizer, width: int, *, seed: int) -> Tensor:
    """Return vectors (vocabulary, width) of length sqrt(width); of nought where a token is too rare in `texts`."""
    pairs, met = _near_pairs(texts, tokenizer)
    information = _positive_information(pairs)
    information[met < _LEAST] = 0
    torch.manual_seed(seed)
    left, values, _ = torch.svd_lowrank(torch.from_numpy(information), q=width + 16, niter=3)
    vectors = left[:, :width] * values[:width].sqrt()
    vectors[torch.from_numpy(met < _LEAST)] = 0
    scaled: Tensor = torch.nn.functional.normalize(vectors, dim=1) * width**0.5
    return scaled


def _near_pairs(texts: Iterable[str], tokenizer: Tokenizer) -> tuple[Counts, npt.NDArray[np.int64]]:
    """Return how often tokens stand near each other, (vocabulary, vocabulary), and how often each is met."""
    size = tokenizer.get_vocab_size()
    pairs, met = np.zeros((size, size), dtype=np.float32), np.zeros(size, dtype=np.int64)
    left = iter(texts)
    while documents := list(islice(left, _DOCUMENTS)):
        for encoding in tokenizer.encode_batch(documents):
            ids = np.asarray(encoding.ids)
            met += np.bincount(ids, minlength=size)
            for distance in range(1, min(_NEAR, len(ids) - 1) + 1):
                np.add.at(pairs, (ids[:-distance], ids[distance:]), (_NEAR + 1 - distance) / _NEAR)
    return pairs + pairs.T, met


def _positive_information(pairs: Counts) -> Counts:
    """Turn counts of pairs, in place, into their positive pointwise mutual information."""
    words = pairs.sum(1, keepdims=True)
    contexts = pairs.sum(0, keepdims=True) ** _SMOOTHING
    contexts /= contexts.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        pairs /= words
        pairs /= contexts
        np.log(pairs, out=pairs)
    np.nan_to_num(pairs, copy=False, nan=0.0, neginf=0.0)
    np.maximum(pairs, 0, out=pairs)
    return pairs
