"""The circuits in the first weights: an untrained model already chooses the sentence with the question's words."""

import statistics
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from training.batches import BatchShape, chosen_tokens, collate, to_rows
from training.data import Pair, Record, to_pair
from training.losses import choice_loss, choice_scores, predict
from training.model import new_model

SENTENCES = (
    "The library by the old harbour opens at nine in the morning and closes late on most days of the week.",
    "Anna Berg has for more than twenty years now run the bakery that stands on the corner of River Street.",
    "Every one of the visitors may pay with a card or with a cheque, but nobody has been able to use cash there.",
    "High over the castle hangs a golden clock, made by two brothers from the south when the town was still small.",
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """The embedded model's."""
    return Tokenizer.from_file("models/embedded/tokenizer.json")


QUESTIONS = (
    "When does the library open, at what hour of the morning?",
    "Who runs the bakery?",
    "May visitors pay by cheque?",
    "What golden thing hangs over the castle?",
)


SHAPE: dict[str, Any] = {
    "d_model": 256,
    "d_kv": 32,
    "d_ff": 64,
    "num_layers": 4,
    "num_decoder_layers": 2,
    "num_heads": 9,
}
TWICE = (
    "In the east a tower made of stone was built for the old town by the king. "
    "Much later some wooden walls were given to the old city for nothing."
)


def chosen_sentence(model: Any, tokenizer: Tokenizer, question: str) -> int:
    """Return the number of the sentence whose tokens the encoder scores highest on average."""
    scores = []
    for target in SENTENCES:
        pair = to_pair(Record((question,), " ".join(SENTENCES), target), "qa")
        batch = collate(to_rows([pair], tokenizer, BatchShape()))
        with torch.no_grad():
            encoded = predict(model.eval(), batch).encoder_last_hidden_state
        scores.append(float(choice_scores(encoded, batch.offered)[batch.chosen].mean()))
    return scores.index(max(scores))


def test_untrained_models_choose_the_sentence_with_the_questions_words(tokenizer: Tokenizer) -> None:
    right = {
        circuits: sum(
            chosen_sentence(model, tokenizer, question) == number
            for seed in range(1, 7)
            for model in [new_model(tokenizer, seed=seed, circuits=circuits, **SHAPE)]
            for number, question in enumerate(QUESTIONS)
        )
        for circuits in (True, False)
    }
    assert right[True] > 2 * right[False]


def town_over_city(model: Any, tokenizer: Tokenizer, begun: str) -> float:
    """Return by how much the model would rather write "town" than "city" after `begun`, the beginning of an answer."""
    pair = to_pair(Record(("What is to be seen?",), TWICE, begun), "qa")
    (row,) = to_rows([pair], tokenizer, BatchShape())
    with torch.no_grad():
        logits = predict(model.eval(), collate([row])).logits
    # At the place of the end token stands what follows the last token of `begun`.
    town, city = logits[0, len(row.target) - 1, [tokenizer.encode(word).ids[0] for word in ("town", "city")]]
    return float(town - city)


def test_untrained_models_tell_the_places_of_a_phrase_by_what_came_before_it(tokenizer: Tokenizer) -> None:
    # Both end with the same two words: models that looked back no further would write the same.
    tower, walls = (
        "In the east a tower made of stone was built for the old",
        "Much later some wooden walls were given to the old",
    )
    models = (new_model(tokenizer, seed=seed, **SHAPE) for seed in range(1, 17))
    better = [town_over_city(model, tokenizer, tower) - town_over_city(model, tokenizer, walls) for model in models]
    # From model to model this scatters by 2; the mean is about 2, without circuits 0.1.
    assert statistics.fmean(better) > 0.5


def test_a_model_too_small_for_the_circuits_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="need 4 encoder layers"):
        new_model(tokenizer, seed=1, d_model=32, d_kv=8, d_ff=32, num_layers=2, num_decoder_layers=1, num_heads=6)


def test_the_chosen_tokens_are_those_of_the_target_within_the_knowledge(tokenizer: Tokenizer) -> None:
    pair = to_pair(Record((SENTENCES[1],), " ".join(SENTENCES), SENTENCES[1]), "qa")
    encoding = tokenizer.encode(pair.prompt)
    offered, chosen = chosen_tokens(pair, encoding)
    assert tokenizer.decode([encoding.ids[index] for index in chosen]) == SENTENCES[1]
    assert chosen.start > offered.start  # the same words in the question are not meant
    assert encoding.tokens[offered.start].strip() == "[KNOWLEDGE]"


@pytest.mark.parametrize(
    ("grounds", "expected"), [("", "[KNOWLEDGE]"), (SENTENCES[2], SENTENCES[2]), ("Not in it.", ""), (None, "")]
)
def test_what_a_target_was_made_from_is_chosen_in_its_place(
    tokenizer: Tokenizer, grounds: str | None, expected: str
) -> None:
    prompt = to_pair(Record(("How do I pay?",), " ".join(SENTENCES), "By card."), "qa").prompt
    encoding = tokenizer.encode(prompt)
    _, chosen = chosen_tokens(Pair(prompt, "By card or cheque.", grounds), encoding)
    text = tokenizer.decode([encoding.ids[index] for index in chosen], skip_special_tokens=False)
    assert text.strip() == expected


def test_the_choice_loss_is_nought_only_when_all_probability_lies_evenly_on_the_chosen() -> None:
    chosen = torch.tensor([[False, True, True, False]])
    even = torch.tensor([[-50.0, 0.0, 0.0, -50.0]])
    uneven = torch.tensor([[-50.0, 4.0, 0.0, -50.0]])
    elsewhere = torch.tensor([[0.0, 0.0, 0.0, 0.0]])
    assert float(choice_loss(even, chosen)) == pytest.approx(0.0, abs=1e-5)
    assert float(choice_loss(uneven, chosen)) > 0.1
    assert float(choice_loss(elsewhere, chosen)) == pytest.approx(0.6931, abs=1e-3)
    assert float(choice_loss(even, torch.zeros_like(chosen))) == 0.0
