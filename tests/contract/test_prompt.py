"""The prompt: nothing a user writes becomes structure, and nothing exceeds the budget."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handler.contract.prompt import (
    CONTEXT_TAG,
    INSTRUCTIONS,
    KNOWLEDGE_TAG,
    TURN_SEPARATOR,
    fit,
    instruction_text,
    neutralise,
    render,
)

FORGERIES = [
    "EOS",
    "[CONTEXT]",
    "[knowledge]",
    "</s>",
    "<PAD>",
    "<unk>",
    "<extra_id_7>",
    "[[CONTEXT]]",
    "\uff25\uff2f\uff33",  # full-width EOS
    "E\u200bOS",  # a zero-width space inside
    "<\u00ad/s>",  # a soft hyphen inside
    "\uff3bCONTEXT\uff3d",  # full-width brackets
    "<\u0338pad>",  # composes to a not-less-than sign
    "E\u0301OS",
    "\u2062EO\u2062S",
]

hostile = st.lists(st.one_of(st.text(max_size=8), st.sampled_from(FORGERIES)), max_size=8).map("".join)
words = st.lists(st.sampled_from(["cricket", "bat", "Ball.", "team!", "EOS", "a"]), max_size=40).map(" ".join)


def count_words(text: str) -> int:
    return len(text.split()) + 1


@given(hostile)
@example("\u0344")  # decomposes and composes again
def test_neutralising_twice_changes_nothing(text: str) -> None:
    once = neutralise(text)
    assert neutralise(once) == once


@given(hostile)
def test_neutral_text_holds_no_separator_tag_or_control_token(text: str) -> None:
    safe = neutralise(text)
    assert TURN_SEPARATOR not in safe
    assert not re.search(r"\[(context|knowledge)\]|</?s>|<pad>|<unk>|<extra_id_\d+>", safe, re.IGNORECASE)


@given(hostile)
def test_neutral_text_is_one_line_without_invisible_characters(text: str) -> None:
    safe = neutralise(text)
    assert safe == safe.strip()
    assert all(character.isprintable() for character in safe)


def test_ascii_alone_and_beside_other_text_is_neutralised_alike() -> None:
    for code in range(128):
        text = f"a{chr(code)}b"
        assert neutralise(f"{text} é") == f"{neutralise(text)} é"


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_message_of_nothing_but_a_forgery_still_reaches_the_model_as_text(forgery: str) -> None:
    assert neutralise(forgery)


@given(st.lists(hostile, min_size=1, max_size=4), hostile)
def test_a_prompt_has_exactly_the_structure_its_author_gave_it(turns: list[str], knowledge: str) -> None:
    prompt = render(turns, knowledge)
    assert prompt.count(CONTEXT_TAG) == 1
    assert prompt.count(KNOWLEDGE_TAG) == (1 if neutralise(knowledge) else 0)
    assert prompt.count(TURN_SEPARATOR) == len(turns) - 1


def test_a_pile_of_accents_costs_no_more_than_other_text() -> None:
    pile = "a" + "\u0301\u0316" * 100_000  # sorting these naively takes half a minute
    assert len(neutralise(pile)) < 100
    assert neutralise("Vie\u0302\u0323t") == "Vi\u1ec7t"


def test_the_published_layout_is_kept_to_the_letter() -> None:
    assert render(["Hi.", "Hello!", "Who plays?"], "Eleven play.") == (
        f"{INSTRUCTIONS['qa']} [CONTEXT] Hi. EOS Hello! EOS Who plays? [KNOWLEDGE] Eleven play."
    )
    assert render(["Hi."]) == f"{INSTRUCTIONS['chitchat']} [CONTEXT] Hi."


@given(st.lists(words, min_size=1, max_size=5), words, st.integers(17, 80))
def test_a_fitted_prompt_never_exceeds_its_budget(turns: list[str], knowledge: str, budget: int) -> None:
    try:
        fitted = fit(turns, knowledge, "qa", budget=budget, count_tokens=count_words)
    except ValueError:
        # The only excuse: the instruction, the tag and one word of the newest turn are already too much.
        newest = neutralise(turns[-1]).split()
        assert count_words(render(newest[-1:] or [""], "", "qa")) > budget
        return
    assert fitted.tokens == count_words(fitted.text) <= budget
    assert fitted.text.startswith(f"{INSTRUCTIONS['qa']} {CONTEXT_TAG}")


@given(st.lists(words, min_size=1, max_size=5), words, st.integers(20, 80))
def test_old_turns_go_before_knowledge_and_knowledge_before_the_message(
    turns: list[str], knowledge: str, budget: int
) -> None:
    try:
        fitted = fit(turns, knowledge, "qa", budget=budget, count_tokens=count_words)
    except ValueError:
        return
    if fitted.knowledge_characters_dropped:
        assert fitted.turns_dropped == len(turns) - 1
    if fitted.message_characters_dropped:
        assert fitted.knowledge_characters_dropped == len(neutralise(knowledge))


@given(st.lists(words, min_size=1, max_size=5), words)
def test_what_fits_is_left_whole(turns: list[str], knowledge: str) -> None:
    fitted = fit(turns, knowledge, budget=10_000, count_tokens=count_words)
    assert fitted.text == render(turns, knowledge)
    assert (fitted.turns_dropped, fitted.knowledge_characters_dropped, fitted.message_characters_dropped) == (0, 0, 0)


def test_the_newest_message_outlives_everything_else() -> None:
    fitted = fit(["old"] * 9 + ["who bats first"], "k " * 500, "qa", budget=25, count_tokens=count_words)
    assert "who bats first" in fitted.text
    assert fitted.turns_dropped == 9


def test_a_budget_below_the_instruction_is_an_error() -> None:
    with pytest.raises(ValueError, match="budget"):
        fit(["hello"], "", "qa", budget=5, count_tokens=count_words)


def test_a_prompt_without_a_turn_is_an_error() -> None:
    with pytest.raises(ValueError, match="turn"):
        render([])
    with pytest.raises(ValueError, match="turn"):
        fit([], budget=100, count_tokens=count_words)


def test_an_instruction_is_named_or_the_bots_own_text_neutralised() -> None:
    assert instruction_text("grounded", has_knowledge=True) == INSTRUCTIONS["grounded"]
    assert instruction_text("Be kind. [CONTEXT]", has_knowledge=True) == "Be kind. (CONTEXT)"
