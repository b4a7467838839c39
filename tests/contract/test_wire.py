"""The JSON between gateway and handler: it round-trips, and what is bad is refused by name."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.contract.generation import GenerationParameters
from handler.contract.prompt import FORMAT_VERSION
from handler.contract.wire import (
    MAX_PROMPT_CHARACTERS,
    REQUEST_ID,
    GenerateReply,
    GenerateRequest,
    WireError,
    decode_line,
    decode_reply,
    encode_failure,
    encode_part,
)

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
requests = st.builds(
    GenerateRequest,
    prompt=text.filter(lambda prompt: bool(prompt.strip())),
    request_id=st.from_regex(REQUEST_ID, fullmatch=True),
    parameters=st.builds(GenerationParameters, max_length=st.integers(8, 512), seed=st.none() | st.integers(0, 9)),
    submitted_at=st.floats(0, 4e9),
    deadline=st.none() | st.floats(0, 4e9),
    stream=st.booleans(),
)
replies = st.builds(
    GenerateReply,
    request_id=text,
    text=text,
    finish_reason=st.sampled_from(["stop", "length", "deadline"]),
    prompt_tokens=st.integers(0, 9999),
    completion_tokens=st.integers(0, 9999),
    queue_ms=st.floats(0, 1e6),
    compute_ms=st.floats(0, 1e6),
    batch_size=st.integers(1, 99),
)


def body(**changes: Any) -> bytes:
    message = {"format_version": FORMAT_VERSION, "request_id": "r1", "prompt": "Hello."}
    return json.dumps(message | changes).encode()


@given(requests)
def test_a_request_survives_the_way(request_sent: GenerateRequest) -> None:
    assert GenerateRequest.decode(request_sent.encode()) == request_sent


@given(replies)
def test_a_reply_survives_the_way(reply: GenerateReply) -> None:
    assert decode_reply(reply.encode()) == reply


@given(text, st.dictionaries(text, text, max_size=3), st.integers(400, 599))
def test_a_failure_survives_the_way(message: str, problems: dict[str, str], status: int) -> None:
    with pytest.raises(WireError) as caught:
        decode_reply(encode_failure(WireError(status, "some_code", message, problems), "r1"))
    assert (caught.value.status, caught.value.code, caught.value.message) == (status, "some_code", message)
    assert caught.value.problems == problems


@given(text, replies)
def test_a_part_and_the_reply_at_its_end_are_a_line_each(part: str, reply: GenerateReply) -> None:
    streamed = encode_part(part) + reply.encode() + b"\n"
    assert [decode_line(line) for line in streamed.split(b"\n")[:-1]] == [part, reply]


@given(st.binary(max_size=40))
def test_any_bytes_are_decoded_or_refused_and_never_break(noise: bytes) -> None:
    for decode in (GenerateRequest.decode, decode_reply, decode_line):
        with pytest.raises(WireError):
            decode(noise)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)
FIELDS = [
    "format_version",
    "request_id",
    "prompt",
    "parameters",
    "submitted_at",
    "deadline",
    "stream",
    "error",
    "text",
    "part",
]


@given(st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=3))
def test_any_json_in_any_field_is_decoded_or_refused_and_never_breaks(changes: dict[str, Any]) -> None:
    for decode in (GenerateRequest.decode, decode_reply, decode_line):
        with contextlib.suppress(WireError):
            decode(body(**changes))


def test_every_bad_field_is_named_at_once() -> None:
    with pytest.raises(WireError) as caught:
        GenerateRequest.decode(body(prompt=" ", request_id="a b", deadline="soon", parameters={"top_p": 9, "x": 1}))
    assert caught.value.status == 422
    assert caught.value.problems.keys() == {"prompt", "request_id", "deadline", "parameters.top_p", "parameters.x"}


def test_a_prompt_that_utf_8_cannot_hold_is_refused() -> None:
    with pytest.raises(WireError) as caught:
        GenerateRequest.decode(body(prompt="\ud800"))
    assert caught.value.problems.keys() == {"prompt"}


@pytest.mark.parametrize("moment", [10**400, "1e400", -1], ids=["int", "float", "negative"])
def test_a_deadline_beyond_all_numbers_is_refused(moment: object) -> None:
    raw = body(deadline="@").replace(b'"@"', str(moment).encode())
    with pytest.raises(WireError) as caught:
        GenerateRequest.decode(raw)
    assert caught.value.problems.keys() == {"deadline"}


def test_a_prompt_beyond_the_guard_is_refused() -> None:
    with pytest.raises(WireError, match=str(MAX_PROMPT_CHARACTERS)):
        GenerateRequest.decode(body(prompt="x" * (MAX_PROMPT_CHARACTERS + 1)))


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, None, "1", True, 1.5])
def test_another_format_version_is_refused(version: object) -> None:
    for decode in (GenerateRequest.decode, decode_reply):
        with pytest.raises(WireError):
            decode(body(format_version=version))


@pytest.mark.parametrize("noise", [b'{"a":NaN}', b"[1]", b"", b"[" * 100_000, b'{"format_version":' + b"1" * 5000])
def test_what_is_no_json_object_is_refused_with_400(noise: bytes) -> None:
    with pytest.raises(WireError) as caught:
        GenerateRequest.decode(noise)
    assert caught.value.status == 400
