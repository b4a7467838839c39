"""Made-up facts: whatever is drawn, the answer stands in the passage word for word, or nowhere at all."""

import random
import re
from pathlib import Path
from typing import Any

import pytest

from handler.contract.prompt import CONTEXT_TAG, KNOWLEDGE_TAG
from training import facts
from training.facts import FactSource, material
from training.grounded import REFUSALS
from training.mixtures import Material, RecipeError, build_mixture

DRAWS = 300
SUBJECTS = [pytest.param(subject, id=name) for name, subject in material()["subjects"].items()]


def knowledge_of(prompt: str) -> str:
    return prompt.partition(KNOWLEDGE_TAG)[2].strip()


def test_the_answer_to_a_told_fact_is_a_whole_statement_of_the_passage() -> None:
    source = FactSource(words=100, unanswerable=0, talk=0)
    for seed in range(DRAWS):
        pair = source(random.Random(seed))
        assert f" {pair.target} " in f" {knowledge_of(pair.prompt)} "
        assert pair.grounds is None


def test_a_fact_that_is_not_told_is_refused_and_grounded_in_nothing() -> None:
    source = FactSource(words=40, unanswerable=1, talk=0)
    pairs = [source(random.Random(seed)) for seed in range(DRAWS)]
    assert {pair.target for pair in pairs} == set(REFUSALS)
    assert all(pair.grounds == "" for pair in pairs)


def test_half_of_what_is_refused_has_nothing_to_do_with_the_subject() -> None:
    source = FactSource(words=40, unanswerable=1, talk=0, dialogue=0)
    asked = [
        source(random.Random(seed)).prompt.partition(CONTEXT_TAG)[2].partition(KNOWLEDGE_TAG)[0]
        for seed in range(DRAWS)
    ]
    elsewhere = [question.lower().rstrip("?.! ") for question in material()["elsewhere"]]
    strange = sum(any(question in turn.lower() for question in elsewhere) for turn in asked)
    assert DRAWS / 3 < strange < DRAWS * 2 / 3


def test_talk_is_answered_with_and_without_knowledge() -> None:
    source = FactSource(words=60, unanswerable=0, talk=1)
    pairs = [source(random.Random(seed)) for seed in range(DRAWS)]
    assert {pair.target for pair in pairs} == {said for talk in material()["talk"] for said in talk["say"]}
    assert {bool(knowledge_of(pair.prompt)) for pair in pairs} == {True, False}


def test_a_dialogue_has_answered_questions_before_the_one_to_answer() -> None:
    pair = FactSource(words=80, unanswerable=0, talk=0, dialogue=1)(random.Random(1))
    turns = pair.prompt.partition(CONTEXT_TAG)[2].partition(KNOWLEDGE_TAG)[0].split(" EOS ")
    assert len(turns) in (3, 5)
    assert all(turn.strip() in knowledge_of(pair.prompt) for turn in turns[1::2])


@pytest.mark.parametrize("words", [30, 200])
def test_a_passage_keeps_to_its_words(words: int) -> None:
    source = FactSource(words=words, talk=0)
    lengths = [len(knowledge_of(source(random.Random(seed)).prompt).split()) for seed in range(DRAWS)]
    assert words / 2 < max(lengths) <= words


def test_the_same_seed_draws_the_same_pair() -> None:
    source = FactSource(words=80)
    assert source(random.Random(7)) == source(random.Random(7)) != source(random.Random(8))


@pytest.mark.parametrize("subject", SUBJECTS)
def test_every_fact_is_said_as_one_sentence_and_asked_for_in_more_than_one_way(subject: dict[str, Any]) -> None:
    words = dict.fromkeys([*material()["words"], *subject.get("words", {})], "x")
    for fact in subject["facts"].values():
        for said in fact["say"]:
            filled = said.format(**words, S="It", s="it")
            assert filled[0].isupper() or filled[0].isdigit() or filled[0] == "x"
            assert filled[-1] in ".!"
            assert not re.search(r"[.!?] [A-Z]", filled)
        assert len({asked.format(**words, q="it") for asked in fact["ask"]}) >= 3


def test_no_subject_hides_another_of_its_name() -> None:
    files = (Path(facts.__file__).parent / "material" / "subjects").glob("*.yaml")
    listed = [line[2:-1] for file in files for line in file.read_text().splitlines() if re.fullmatch(r"  \w+:", line)]
    assert sorted(listed) == sorted(material()["subjects"])


def test_a_recipe_that_asks_for_an_option_which_facts_do_not_have_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"facts of made-up subjects: .*'sentences'"):
        build_mixture([{"exercise": "facts", "weight": 1, "words": 50, "sentences": 3}], Material(Path(), []))
