"""What is drawn from grounded records: dialogues, passages among others, questions as people type them, refusals."""

import random
from pathlib import Path

import pytest

from training.data import Record, read_records
from training.grounded import REFUSALS, Draw, RecordSource

SENTENCES = (
    "The library opens at nine in the morning.",
    "Anna Berg has run the bakery for more than twenty years.",
    "Visitors may pay with a card.",
)
TWINS = [
    Record(("When does it open?",), " ".join(SENTENCES), SENTENCES[0], "nine"),
    Record(("Who runs the bakery?",), " ".join(SENTENCES), SENTENCES[1], "Anna Berg"),
]


def about(place: int) -> Record:
    """One of many records whose passages stand in an order."""
    return Record((f"How many live in place {place}?",), f"Place {place} has people.", f"Place {place} has people.")


@pytest.fixture
def others(data: Path) -> list[Record]:
    return read_records(data / "train.jsonl")


def test_records_on_one_passage_are_drawn_as_a_dialogue() -> None:
    dialogue = RecordSource(TWINS, Draw(words=60, dialogue=1.0))(random.Random(0))
    assert " EOS " in dialogue.prompt
    assert all(record.turns[0] in dialogue.prompt for record in TWINS)


def test_beside_a_passage_that_does_not_answer_stands_a_refusal(others: list[Record]) -> None:
    refused = RecordSource([*TWINS, *others], Draw(words=60, unanswerable=1.0))(random.Random(0))
    assert refused.target in REFUSALS
    assert refused.grounds == ""


def test_a_passage_among_others_stays_whole_and_is_what_the_answer_is_grounded_in() -> None:
    passages = [f"In house {number} pets are allowed." for number in range(9)]
    records = [Record(("Pets?",), passage, f"Sure, {passage[9]}.") for passage in passages]
    source = RecordSource(records, Draw(words=400, among=4))
    for seed in range(5):
        pair = source(random.Random(seed))
        assert pair.grounds in passages
        assert pair.grounds in pair.prompt


def test_what_is_copied_from_a_passage_among_others_is_found_by_itself() -> None:
    source = RecordSource([about(place) for place in range(9)], Draw(words=400, among=4))
    for seed in range(5):
        pair = source(random.Random(seed))
        assert pair.grounds is None
        assert pair.target in pair.prompt


def test_nearby_passages_are_those_that_stand_close_in_the_file() -> None:
    source = RecordSource([about(place) for place in range(1000)], Draw(words=400, among=6, nearby=1.0))
    companies = 0
    for seed in range(20):
        pair = source(random.Random(seed))
        own = int(pair.target.split()[1])
        places = [int(part.split()[0]) for part in pair.prompt.partition("[KNOWLEDGE]")[2].split("Place ")[1:]]
        assert all(abs(place - own) <= 40 for place in places)
        assert len(places) == len(set(places))
        companies += len(places) > 1
    assert companies > 10


def test_a_refusal_among_others_is_not_given_the_passage_that_answers() -> None:
    source = RecordSource([about(place) for place in range(9)], Draw(words=400, among=8, nearby=1.0, unanswerable=1.0))
    for seed in range(20):
        pair = source(random.Random(seed))
        asked = pair.prompt.partition("place ")[2].partition("?")[0]
        assert pair.target in REFUSALS
        assert f"Place {asked} " not in pair.prompt


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_typed_question_has_small_letters_and_mostly_no_mark(share: float) -> None:
    source = RecordSource(TWINS, Draw(words=60, typed=share))
    asked = [source(random.Random(seed)).prompt.partition("[CONTEXT] ")[2].partition(" [KNOW")[0] for seed in range(40)]
    small = {record.turns[0].lower() for record in TWINS}
    if share:
        assert set(asked) == small | {question.rstrip("?") for question in small}
    else:
        assert set(asked) == {record.turns[0] for record in TWINS}
