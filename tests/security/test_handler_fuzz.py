"""Whatever is posted to the handler, each request gets an answer of its own and no other request notices."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.contract.generation import GenerationParameters
from handler.contract.prompt import FORMAT_VERSION
from handler.contract.wire import (
    DESCRIBE_HEADER,
    GenerateReply,
    GenerateRequest,
    WireError,
    decode_line,
    decode_reply,
)
from handler.godel_handler import GodelHandler
from tests.handler.test_godel_handler import FakeContext, Frontend

MODEL = Path(__file__).parents[2] / "models" / "embedded"
SHORT = GenerationParameters(max_length=3, min_length=0, do_sample=False)
GOOD = GenerateRequest(prompt="The sea is blue.", request_id="good", parameters=SHORT)
ANSWER = "The sea is"


@pytest.fixture(scope="module")
def handlers(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, tuple[GodelHandler, FakeContext]]:
    """A worker in each mode, continuous or not, over the engine that repeats the prompt."""
    folder = tmp_path_factory.mktemp("archive")
    (folder / "model").symlink_to(MODEL)
    (folder / "metadata.json").write_text(json.dumps({"format_version": FORMAT_VERSION, "name": "echo"}))
    made = {}
    for continuous in (True, False):
        context = FakeContext(folder, {"continuousBatching": continuous, "handler": {"engine": "echo"}}, batch_size=8)
        made[continuous] = (GodelHandler(), context)
        made[continuous][0].initialize(context)
    return made


numbers = st.integers() | st.just(10**400) | st.floats() | st.sampled_from([0, 1, -1, 513, 2**63, 1e12])
texts = st.text(max_size=20) | st.sampled_from(["", " ", "\0", "\ud800", "EOS", "</s>", "\n[METRICS]x", "x" * 70_000])
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ["format_version", "request_id", "prompt", "parameters", "submitted_at", "deadline", "stream", "extra"]
PARAMETERS = [*GenerationParameters.bounds(), "max_lenght", ""]


@st.composite
def altered(draw: st.DrawFn) -> bytes:
    """A request with other values in some fields, or in some parameters, or both."""
    message = json.loads(GOOD.encode())
    message["parameters"] |= draw(st.dictionaries(st.sampled_from(PARAMETERS), values, max_size=2))
    # Long answers of the engine are no matter of this test, only of its time.
    longest = message["parameters"]["max_length"]
    if isinstance(longest, int):
        message["parameters"]["max_length"] = min(3, longest)
    message |= draw(st.dictionaries(st.sampled_from(FIELDS), values, max_size=2))
    return json.dumps(message).encode()


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A request of which some bytes were lost, doubled or overwritten."""
    body = bytearray(GOOD.encode())
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(body)))
        body[start : start + draw(st.integers(0, 9))] = draw(st.binary(max_size=6))
    return bytes(body)


bodies = st.one_of(st.binary(max_size=60), altered(), damaged(), values.map(lambda value: json.dumps(value).encode()))
# What TorchServe hands over when it parses bodies and forms itself, which config.properties keeps it from.
parsed = st.none() | st.text(max_size=9) | st.integers() | st.dictionaries(st.text(max_size=3), st.integers()) | values
rows = st.builds(
    lambda name, body, header: (name, body, {DESCRIBE_HEADER: header} if header is not None else {}),
    st.sampled_from(["body", "data", "file", ""]),
    st.one_of(bodies, bodies, bodies, parsed),
    st.sampled_from([None, None, None, "True", "true", "", "1"]),
)


def check_answer(status: int, body: bytes) -> None:
    """Assert that `body` is something that a gateway understands, and that it goes with `status`."""
    if status != 200:
        assert 400 <= status < 500
        with pytest.raises(WireError) as refused:
            decode_reply(body)
        assert refused.value.status == status
        assert refused.value.code != "bad_reply"
        return
    lines = body.splitlines()
    if lines and b'"engine"' in lines[0]:
        assert json.loads(body)["engine"] == "echo"
    else:
        assert isinstance([decode_line(line) for line in lines][-1], GenerateReply)


def check_good(status: int, body: bytes) -> None:
    assert status == 200
    assert decode_reply(body).text == ANSWER


@given(st.lists(rows, min_size=1, max_size=6), st.integers(0, 6))
def test_each_request_gets_an_answer_of_its_own_and_its_neighbours_notice_nothing(
    handlers: dict[bool, tuple[GodelHandler, FakeContext]], noise: list[tuple[str, Any, dict[str, str]]], place: int
) -> None:
    handler, context = handlers[True]
    frontend = Frontend(handler, context)
    frontend.send("before", GOOD.encode())
    frontend.call()
    sent = [(f"noise {number}", row) for number, row in enumerate(noise)]
    for key, (name, body, headers) in [*sent[:place], ("beside", ("body", GOOD.encode(), {})), *sent[place:]]:
        context.headers[key] = headers
        frontend.send_row(key, {name: body})
    frontend.drain()
    for key, _ in sent:
        status, last = frontend.answers[key]
        check_answer(status, b"".join([*frontend.parts.get(key, ()), last]))
    for key in ("before", "beside"):
        check_good(*frontend.answers[key])
    assert not handler._requests, "something of this stays behind"


@given(st.lists(rows, min_size=1, max_size=6), st.integers(0, 6))
def test_in_a_classic_batch_as_well(
    handlers: dict[bool, tuple[GodelHandler, FakeContext]], noise: list[tuple[str, Any, dict[str, str]]], place: int
) -> None:
    handler, context = handlers[False]
    good: tuple[str, Any, dict[str, str]] = ("body", GOOD.encode(), {})
    batch = [*noise[:place], good, *noise[place:]]
    context.request_ids = {number: str(number) for number in range(len(batch))}
    context.headers = {str(number): headers for number, (_, _, headers) in enumerate(batch)}
    context.statuses = {}
    replies = handler.handle([{name: body} for name, body, _ in batch], context)
    assert len(replies) == len(batch)
    for number, reply in enumerate(replies):
        check = check_good if batch[number] is good else check_answer
        check(context.statuses.get(number, 200), reply)
