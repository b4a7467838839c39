"""Prompts of an exact number of tokens for the checkpoints of `bench.checkpoints`, as ids and as text."""

import random
from typing import Final

END_ID: Final = 1
FIRST_WORD: Final = 100
"""The first id used in prompts; control tokens and the turn separator lie below."""


def prompt_ids(tokens: int, vocabulary: int, seed: int) -> list[int]:
    """Return `tokens` ids, the end token last and the others words drawn at random."""
    drawn = random.Random(seed)
    return [*(drawn.randrange(FIRST_WORD, vocabulary) for _ in range(tokens - 1)), END_ID]


def words(count: int, vocabulary: int, seed: int) -> str:
    """Return a text of `count` words, each of which is one token."""
    return " ".join(f"w{number}" for number in prompt_ids(count + 1, vocabulary, seed)[:-1])
