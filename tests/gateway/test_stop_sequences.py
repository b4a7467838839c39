"""Stop sequences: the same text whole and in parts, wherever these are cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.stop_sequences import StopSequences


def through(sequences: list[str], parts: list[str]) -> tuple[str, bool]:
    end = StopSequences(sequences)
    text = "".join(end.pass_on(part) for part in parts) + end.rest()
    return text, end.found


@pytest.mark.parametrize(
    ("sequences", "text", "given"),
    [
        ([], "all of it", "all of it"),
        (["x"], "no such thing", "no such thing"),
        (["END"], "one END two END", "one "),
        (["abc", "b"], "xabc", "xa"),
        (["bc", "abc"], "xabc", "x"),
        (["aab"], "aaab", "a"),
        (["\n"], "\nlate", ""),
        (["night "], "at night", "at night"),
    ],
)
def test_the_text_ends_before_the_sequence_that_is_complete_first(sequences: list[str], text: str, given: str) -> None:
    assert through(sequences, [text]) == (given, given != text)
    assert through(sequences, list(text)) == (given, given != text)


@given(
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=4),
    st.lists(st.text("abc", max_size=5), max_size=8),
)
def test_parts_make_no_difference(sequences: list[str], parts: list[str]) -> None:
    assert through(sequences, parts) == through(sequences, ["".join(parts)])


def test_nothing_is_given_out_that_could_be_the_beginning_of_a_sequence() -> None:
    end = StopSequences(["</answer>"])
    assert [end.pass_on(part) for part in ("It is 7 ", "<", "/ans", "bc <", "/answer>", "more")] == [
        "It is 7 ", "", "", "</ansbc ", "", ""
    ]  # fmt: skip
    assert (end.rest(), end.found) == ("", True)
