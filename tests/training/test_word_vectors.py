"""Vectors of tokens from what stands near them, and first weights that hold them."""

import random
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from training.model import new_model
from training.tokenizer import train_tokenizer
from training.word_vectors import word_vectors

ANIMALS, CARS = ("horse", "donkey", "camel", "zebra"), ("truck", "lorry", "wagon", "coach")


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Animals are fed and cars are mended, in the same sentences otherwise; one word is met once."""
    rng = random.Random(1)
    fed, mended = (
        ("eats hay in the field", "drinks from the river", "sleeps in the barn"),
        (
            "needs fuel and oil",
            "has four wheels",
            "stands in a garage",
        ),
    )
    said = [f"a {rng.choice(ANIMALS)} {rng.choice(fed)}" for _ in range(900)]
    said += [f"a {rng.choice(CARS)} {rng.choice(mended)}" for _ in range(900)]
    return [*said, "one unicorn"]


@pytest.fixture(scope="module")
def tokenizer(texts: list[str]) -> Tokenizer:
    return train_tokenizer([*texts, *["unicorn unicorn"] * 50], 640)


def one(tokenizer: Tokenizer, word: str) -> int:
    (token,) = tokenizer.encode(word, add_special_tokens=False).ids
    return int(token)


def test_words_used_alike_are_nearer_than_words_used_otherwise(texts: list[str], tokenizer: Tokenizer) -> None:
    vectors = torch.nn.functional.normalize(word_vectors(texts, tokenizer, 16, seed=1), dim=1)
    animals = vectors[[one(tokenizer, word) for word in ANIMALS]]
    cars = vectors[[one(tokenizer, word) for word in CARS]]
    assert float((animals @ animals.T).min()) > 0.5 > float((animals @ cars.T).max())


def test_a_word_that_is_hardly_met_has_no_vector_and_the_others_have_one_length(
    texts: list[str], tokenizer: Tokenizer
) -> None:
    vectors = word_vectors(texts, tokenizer, 16, seed=1)
    assert not vectors[one(tokenizer, "unicorn")].any()
    lengths = vectors[[one(tokenizer, word) for word in ANIMALS + CARS]].norm(dim=1)
    assert torch.allclose(lengths, torch.tensor(4.0))


def test_a_new_models_embeddings_are_half_the_vectors_where_there_is_one(
    texts: list[str], tokenizer: Tokenizer
) -> None:
    shape: dict[str, Any] = {
        "d_model": 64,
        "d_kv": 16,
        "d_ff": 64,
        "num_layers": 1,
        "num_decoder_layers": 1,
        "num_heads": 2,
    }
    vectors = word_vectors(texts, tokenizer, 64, seed=1)
    plain = new_model(tokenizer, seed=1, circuits=False, **shape).shared.weight
    mixed = new_model(tokenizer, seed=1, circuits=False, vectors=vectors, **shape).shared.weight
    horse, unicorn = one(tokenizer, "horse"), one(tokenizer, "unicorn")
    assert torch.allclose(mixed[horse], (plain[horse] + vectors[horse]) / 2**0.5)
    assert torch.equal(mixed[unicorn], plain[unicorn])
