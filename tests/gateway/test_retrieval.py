"""Which passages of long knowledge go into a prompt."""

import gc
import threading
import tracemalloc
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import retrieval
from gateway.bots import Bot
from gateway.prompting import BuiltPrompt, PromptBuilder
from gateway.retrieval import PassageIndex, PassageIndexes
from handler.contract.prompt import neutralise
from tests.gateway.conftest import count_words

FILLER = "".join(f"Chapter {n} tells of the village {n} and its people. " for n in range(400))
LONG = FILLER + "The lighthouse of Aldermoor has ninety-one steps. " + FILLER
BOT = Bot(bot_id="b", knowledge=LONG, created_at=datetime.now(UTC), updated_at=datetime.now(UTC), revision=1)


def build(*turns: str, budget: int = 120, **bot: Any) -> BuiltPrompt:
    return PromptBuilder(count_tokens=count_words, budget=budget).build(replace(BOT, **bot), turns)


def texts(prompt: BuiltPrompt, knowledge: str = LONG) -> list[str]:
    return [knowledge[found.span.start : found.span.end] for found in prompt.passages]


def test_the_passage_that_answers_is_in_the_prompt_wherever_it_stands() -> None:
    prompt = build("How many steps has the lighthouse?")
    assert "ninety-one steps" in prompt.text
    assert prompt.tokens <= 120
    best = max(prompt.passages, key=lambda found: found.score or 0)
    assert "ninety-one" in LONG[best.span.start : best.span.end]


def test_words_are_found_in_their_other_forms() -> None:
    assert "ninety-one steps" in build("Which lighthouses have steps?").text
    assert "ninety-one steps" in build("ALDERMOOR?").text


def test_an_earlier_turn_says_what_the_question_is_about() -> None:
    prompt = build("Tell me of the lighthouse of Aldermoor.", "It stands there.", "And what does it have?")
    assert "ninety-one steps" in prompt.text


def test_passages_stand_in_the_order_of_the_text_and_account_for_what_is_left_out() -> None:
    prompt = build("What is in chapter 7, and how many steps has the lighthouse?")
    starts = [found.span.start for found in prompt.passages]
    assert starts == sorted(starts)
    assert len(starts) > 1
    knowledge = prompt.text.partition("[KNOWLEDGE] ")[2]
    assert knowledge == " ".join(neutralise(text) for text in texts(prompt))
    assert prompt.knowledge_characters_dropped == len(LONG) - sum(map(len, texts(prompt)))


def test_without_any_match_the_start_of_the_text_is_given() -> None:
    prompt = build("Xyzzy?")
    assert prompt.passages[0].span.start == 0
    assert {found.score for found in prompt.passages} == {0.0}


def test_what_fits_is_given_whole_and_not_searched() -> None:
    prompt = build("How many?", knowledge="Eleven play.")
    assert [(found.span.start, found.span.end, found.score) for found in prompt.passages] == [(0, 12, None)]
    assert prompt.knowledge_characters_dropped == 0
    assert not build("How many?", knowledge=" ").passages


def test_a_dialogue_keeps_recent_turns_beside_long_knowledge() -> None:
    turns = [f"This is turn {number} of our talk." for number in range(20)]
    prompt = build(*turns, "How many steps has the lighthouse?")
    assert "turn 19 of our talk." in prompt.text
    assert "turn 3 of" not in prompt.text
    assert "ninety-one steps" in prompt.text
    kept = prompt.text.count(" of our talk.")
    assert prompt.turns_dropped == 20 - kept


@pytest.mark.parametrize("knowledge", ["", " " * 20_000])
def test_of_a_dialogue_without_knowledge_what_was_dropped_is_counted_whole(knowledge: str) -> None:
    turns = [f"This is turn {number} of our talk." for number in range(200)]
    prompt = build(*turns, "How many steps?", knowledge=knowledge)
    kept = prompt.text.count(" of our talk.")
    assert kept > 5
    assert prompt.turns_dropped == 200 - kept
    assert f"turn {200 - kept} of our talk." in prompt.text


def test_a_message_as_long_as_the_prompt_leaves_no_knowledge_but_the_instruction_stays() -> None:
    prompt = build("lighthouse " * 200)
    assert "answer the question" in prompt.text
    assert prompt.passages == []
    assert prompt.message_characters_dropped > 0
    assert prompt.knowledge_characters_dropped == len(LONG)


def test_of_a_passage_that_is_too_long_its_beginning_is_given() -> None:
    knowledge = "lighthouse " + "word " * 500
    prompt = build("How tall is the lighthouse?", budget=60, knowledge=knowledge)
    assert prompt.tokens <= 60
    (text,) = texts(prompt, knowledge)
    assert text.startswith("lighthouse word")


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=600), st.lists(st.text(min_size=1, max_size=60), min_size=1, max_size=4), st.integers(40, 90))
def test_no_prompt_exceeds_its_budget_and_all_offsets_are_right(text: str, turns: list[str], budget: int) -> None:
    def count_characters(prompt: str) -> int:
        return len(prompt) // 4 + 1

    builder = PromptBuilder(count_tokens=count_characters, budget=budget)
    prompt = builder.build(replace(BOT, knowledge=text, instruction="Say."), turns)
    assert prompt.tokens <= budget
    for found in prompt.passages:
        assert 0 <= found.span.start < found.span.end <= len(text)
        assert neutralise(text[found.span.start : found.span.end]) in prompt.text


def test_a_text_is_indexed_once_however_many_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    begin = threading.Barrier(8)

    class Counted(PassageIndex):
        def __init__(self, text: str) -> None:
            made.append(text)
            super().__init__(text)

    monkeypatch.setattr(retrieval, "PassageIndex", Counted)
    indexes = PassageIndexes()

    def ask(_: int) -> object:
        begin.wait(10)
        return indexes.of(LONG)

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(ask, range(8)))) == 1
    assert len(made) == 1
    indexes.of("changed")
    assert len(made) == 2


def test_the_least_recently_used_index_goes_first() -> None:
    indexes = PassageIndexes(characters=25)
    first = indexes.of("a" * 10)
    second = indexes.of("b" * 10)
    assert indexes.of("a" * 10) is first
    indexes.of("c" * 10)
    assert indexes.of("a" * 10) is first
    assert indexes.of("b" * 10) is not second


def test_however_short_the_texts_no_more_indexes_are_kept_than_said() -> None:
    indexes = PassageIndexes(most=2)
    first = indexes.of("a")
    second = indexes.of("b")
    assert indexes.of("a") is first
    indexes.of("c")
    assert indexes.of("a") is first
    assert indexes.of("b") is not second


def test_an_index_that_cannot_be_made_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    indexes = PassageIndexes()
    with monkeypatch.context() as patch:
        patch.setattr(retrieval, "split", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            indexes.of("text")
    assert len(indexes.of("text").passages) == 1


@pytest.mark.parametrize("question", ['" OR 1', "NEAR(a b)", "a*b^c -d", "🏏", "", "的板球"])
def test_no_question_is_taken_for_a_query_language(question: str) -> None:
    assert list(PassageIndex("的 a b c d or near 1").search([question], limit=5))


def test_a_dialogue_finds_the_same_whether_its_turns_were_asked_before_or_not() -> None:
    turns = ("Tell me of the lighthouse.", "It stands there.", "And of chapter 7?")
    asked = PassageIndex(LONG)
    for end in range(1, len(turns) + 1):
        list(asked.search(turns[:end], 20))
    assert list(asked.search(turns, 20)) == list(PassageIndex(LONG).search(turns, 20))


@pytest.mark.parametrize("letter", ["a", "д", "𐐀"])
def test_what_is_kept_of_searches_stays_small_however_many_and_long_they_are(letter: str) -> None:
    index = PassageIndex("The cafe opens at nine.")
    tracemalloc.start()
    try:
        for length in (*range(1, 60), *range(440, 500), *range(1900, 1960)):
            list(index.search([f"{length} " + letter * length], 20))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 200_000


def test_an_index_that_is_let_go_is_gone_at_once() -> None:
    index = PassageIndex(LONG)
    list(index.search(["Which lighthouses have steps?"], 20))
    gone = weakref.ref(index)
    gc.disable()
    try:
        del index
        assert gone() is None
    finally:
        gc.enable()
