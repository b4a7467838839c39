"""Passages: nothing of the text is lost, none is too long, and they end where sentences end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.passages import split

texts = st.text(st.sampled_from("ab .!?\n。一-1"), max_size=200) | st.text(max_size=200)


@given(texts, st.integers(4, 60))
def test_every_character_but_white_space_is_in_exactly_one_passage(text: str, longest: int) -> None:
    end = 0
    for span in split(text, longest):
        assert not text[end : span.start].strip()
        assert 0 < span.end - span.start <= longest
        passage = text[span.start : span.end]
        assert passage == passage.strip()
        end = span.end
    assert not text[end:].strip()


def passages(text: str, longest: int) -> list[str]:
    return [text[span.start : span.end] for span in split(text, longest)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One is here. Two is there.", ["One is here.", "Two is there."]),
        ("Dr. Grace paid 3.50 to W. G. Ward. He left.", ["Dr. Grace paid 3.50 to W. G. Ward.", "He left."]),
        ('He said "Out!" Then he went.', ['He said "Out!"', "Then he went."]),
        ("板球是一项运动。每队有十一人。", ["板球是一项运动。", "每队有十一人。"]),
        ("- the bat\n- the ball\n- the pitch", ["- the bat", "- the ball", "- the pitch"]),
    ],
    ids=["plain", "abbreviations and decimals", "quotation", "no spaces", "list"],
)
def test_passages_end_where_sentences_end(text: str, expected: list[str]) -> None:
    assert passages(text, max(map(len, expected))) == expected


def test_a_sentence_without_an_end_is_cut_between_words() -> None:
    cut = passages("word " * 50, 23)
    assert set(cut[:-1]) == {"word word word word"}


def test_a_paragraph_begins_a_passage_when_the_last_is_long_enough() -> None:
    assert passages("One is here. Two too.\n\nThree.", 34) == ["One is here. Two too.", "Three."]
