"""Parts of an unfinished text: never taken back, never cut inside a character."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from handler.contract.wire import GenerateReply, decode_line
from handler.streaming import TextStream
from handler.tokenization import Tokenization

EMBEDDED = Path(__file__).parents[2] / "models" / "embedded" / "tokenizer.json"
TOKENIZATION = Tokenization(EMBEDDED)
VOCABULARY = Tokenizer.from_file(str(EMBEDDED)).get_vocab()
WORDS = len(VOCABULARY)


def streamed(tokens: list[int]) -> tuple[list[str], GenerateReply]:
    """Return the parts and the end of an answer that is made token by token."""
    stream = TextStream(TOKENIZATION)
    taken = b""
    for count in range(1, len(tokens) + 1):
        stream.advance(tokens[:count])
        taken += stream.take()
    whole = GenerateReply(
        request_id="r",
        text=TOKENIZATION.decode(tokens),
        finish_reason="stop",
        prompt_tokens=1,
        completion_tokens=len(tokens),
        queue_ms=0,
        compute_ms=0,
        batch_size=1,
    )
    *parts, last = [decode_line(line) for line in (taken + stream.finish(whole)).splitlines()]
    assert isinstance(last, GenerateReply)
    return [str(part) for part in parts], last


@given(st.lists(st.integers(0, WORDS - 1), max_size=30))
def test_any_tokens_stream_to_exactly_their_text(tokens: list[int]) -> None:
    parts, last = streamed(tokens)
    assert "".join(parts) == last.text


def test_a_control_token_between_two_bytes_does_not_make_the_first_certain() -> None:
    null, pad, half = (VOCABULARY[name] for name in ("<0x00>", "<pad>", "<0xE2>"))
    parts, last = streamed([null, pad, half])
    assert "".join(parts) == last.text == "\ufffd\ufffd"


@given(st.text(max_size=60))
def test_any_text_streams_to_exactly_itself_decoded(text: str) -> None:
    tokens = TOKENIZATION.encode(text)
    parts, last = streamed(tokens)
    assert "".join(parts) == last.text


@pytest.mark.parametrize("text", ["snow \u2603 falls", "a \U0001f3cf bat", "\u677f\u7403 is cricket"])
def test_no_part_ends_inside_a_character(text: str) -> None:
    parts, last = streamed(TOKENIZATION.encode(text))
    assert last.text == text
    assert len(parts) > 1
    assert not any("\ufffd" in part for part in parts)


def test_a_stream_has_begun_when_its_first_part_was_taken() -> None:
    stream = TextStream(TOKENIZATION)
    tokens = TOKENIZATION.encode("Eleven players are in each team.")
    assert stream.take() == b""
    stream.advance(tokens[:3])
    assert stream.waiting
    assert not stream.begun
    stream.take()
    assert stream.begun
    assert not stream.waiting
