"""OpenAI's interface, used by OpenAI's own client over HTTP; the gateway stands on fakes."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from gateway.app import create_app
from gateway.errors import ModelBusy, ModelTimeout
from gateway.inference import EchoInference
from gateway.settings import Settings
from gateway.store.memory import MemoryStore
from tests.gateway.conftest import count_words
from tests.gateway.serving import running

PROMPT = "[CONTEXT] How many? [KNOWLEDGE] Eleven play."
USER = {"role": "user", "content": "How many?"}


@pytest.fixture
def address(settings: Settings, model: EchoInference) -> Iterator[str]:
    app = create_app(settings, store=MemoryStore(), inference=model, count_tokens=count_words)
    with running(app) as url:
        httpx.put(f"{url}/v1/bots/cricket", json={"knowledge": "Eleven play."}).raise_for_status()
        yield url


@pytest.fixture
def client(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        yield client


def ask(client: openai.OpenAI, *messages: dict[str, Any], **options: Any) -> Any:
    return client.chat.completions.create(model="cricket", messages=list(messages or (USER,)), **options)  # type: ignore[arg-type]


def test_a_bot_is_a_model(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["cricket"]
    card = client.models.retrieve("cricket")
    assert (card.object, card.owned_by) == ("model", "godel-serve")
    assert card.created > 1_700_000_000


def test_an_answer_with_its_usage(client: openai.OpenAI) -> None:
    answer = ask(client)
    assert answer.choices[0].message.content.endswith(PROMPT)
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.object, answer.model) == ("chat.completion", "cricket")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 2


def test_a_stream_brings_the_same_words(client: openai.OpenAI) -> None:
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    *content, last = chunks
    assert "".join(chunk.choices[0].delta.content or "" for chunk in content) == ask(client).choices[0].message.content
    assert content[0].choices[0].delta.role == "assistant"
    assert content[-1].choices[0].finish_reason == "stop"
    assert (last.choices, last.usage) == ([], ask(client).usage)
    assert len({chunk.id for chunk in chunks}) == 1


def test_usage_is_sent_only_when_it_is_wanted(client: openai.OpenAI) -> None:
    assert all(chunk.choices and chunk.usage is None for chunk in ask(client, stream=True))


@pytest.mark.parametrize("stop", ["at night", [".", " at night"], ["t night"]])
def test_an_answer_ends_before_a_stop_sequence_streamed_or_not(
    client: openai.OpenAI, model: EchoInference, stop: str | list[str]
) -> None:
    model.answer = lambda _: "Open at noon, closed at night. Not at all."
    whole = ask(client, stop=stop)
    chunks = ask(client, stop=stop, stream=True, stream_options={"include_usage": True})
    content = [chunk for chunk in chunks if chunk.choices]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in content)
    assert text == whole.choices[0].message.content
    assert text.rstrip(" a") == "Open at noon, closed"
    assert {whole.choices[0].finish_reason, content[-1].choices[0].finish_reason} == {"stop"}
    assert whole.usage.completion_tokens == 9, "what the model made counts"


def test_the_dialogue_and_a_system_message_reach_the_prompt(client: openai.OpenAI, model: EchoInference) -> None:
    ask(
        client,
        {"role": "system", "content": "Seven play."},
        {"role": "user", "content": "Hi."},
        {"role": "user", "content": [{"type": "text", "text": "It is"}, {"type": "text", "text": " me."}]},
        {"role": "assistant", "content": "Hello."},
        USER,
    )
    expected = "[CONTEXT] Hi. It is me. EOS Hello. EOS How many? [KNOWLEDGE] Seven play."
    assert model.requests[-1].prompt.endswith(expected)


def test_parameters_keep_their_meaning(client: openai.OpenAI, model: EchoInference) -> None:
    ask(client, max_completion_tokens=5, temperature=0.5, top_p=0.7, seed=9)
    chosen = model.requests[-1].parameters
    assert (chosen.max_length, chosen.temperature, chosen.top_p, chosen.seed) == (5, 0.5, 0.7, 9)
    assert chosen.do_sample
    ask(client, max_tokens=6, temperature=0)
    chosen = model.requests[-1].parameters
    assert (chosen.max_length, chosen.do_sample) == (6, False)


def test_what_asks_for_nothing_is_taken(client: openai.OpenAI) -> None:
    answer = ask(client, n=1, stop=[], presence_penalty=0, tools=[], response_format={"type": "text"}, user="me")
    assert answer.choices[0].message.content.endswith(PROMPT)


def test_an_answer_may_be_sent_back_as_it_came(client: openai.OpenAI) -> None:
    said = ask(client).choices[0].message.model_dump() | {"annotations": [], "tool_calls": None}
    dialogue: list[Any] = [USER, said, USER]
    answer = client.chat.completions.create(model="cricket", messages=dialogue)
    assert "Eleven play. EOS How many?" in str(answer.choices[0].message.content)


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"n": 2}, "n"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": ""}, "stop"),
        ({"logprobs": True}, "logprobs"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"extra_body": {"top_k": 4}}, "top_k"),
        ({"stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
        ({"temperature": 9.0}, "temperature"),
        ({"top_p": 7.0}, "top_p"),
        ({"max_tokens": 0}, "max_completion_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 5}, "max_tokens"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_done_is_refused_by_name(
    client: openai.OpenAI, options: dict[str, Any], param: str, stream: bool
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, stream=stream, **options)
    assert (caught.value.param, caught.value.type) == (param, "invalid_request_error")
    assert param in caught.value.message


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        ([{"role": "system", "content": "Seven play."}], "messages"),
        ([USER, {"role": "assistant", "content": "Eleven."}], "messages"),
        ([{"role": "user", "content": " "}], "messages"),
        ([{"role": "tool", "content": "x"}], "messages.0.role"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}], "messages.0.content"),
        ([USER, {"role": "assistant", "content": "", "tool_calls": [{"id": "x"}]}, USER], "messages.1.tool_calls"),
        ([USER | {"name": "Ann"}], "messages.0.name"),
        (
            [{"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": {}}]}],
            "messages.0.content.0.cache_control",
        ),
    ],
)
def test_a_dialogue_that_nobody_can_answer_is_refused(client: openai.OpenAI, messages: list[Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="cricket", messages=messages)
    assert (caught.value.param or "").startswith(param)


@pytest.mark.parametrize("name", ["nobody", "not a name", "v1"])
def test_a_model_that_is_not_there_is_not_found(client: openai.OpenAI, name: str) -> None:
    for call in (
        lambda: client.chat.completions.create(model=name, messages=[USER]),  # type: ignore[list-item]
        lambda: client.models.retrieve(name),
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            call()
        assert caught.value.code == "model_not_found"


def test_failures_of_the_model_are_the_clients_own_errors(client: openai.OpenAI, model: EchoInference) -> None:
    for failure, status, code in ((ModelBusy("full"), 503, "model_busy"), (ModelTimeout("late"), 504, "model_timeout")):
        model.failure = failure
        for stream in (False, True):
            with pytest.raises(openai.InternalServerError) as caught:
                ask(client, stream=stream)
            assert (caught.value.status_code, caught.value.code) == (status, code)


def test_a_failure_on_the_way_is_raised_in_the_middle_of_the_stream(
    client: openai.OpenAI, model: EchoInference
) -> None:
    model.breaks_after = 2
    stream = ask(client, stream=True)
    with pytest.raises(openai.APIError, match="worker died"):
        list(stream)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_times_out_lets_go_of_the_model(
    client: openai.OpenAI, model: EchoInference, stream: bool
) -> None:
    model.gate = asyncio.Event()
    with pytest.raises(openai.APITimeoutError):
        ask(client.with_options(timeout=0.3), stream=stream)
    end = time.monotonic() + 5
    while not model.cancelled and time.monotonic() < end:
        time.sleep(0.01)
    assert model.cancelled == 1


def test_other_errors_below_the_same_addresses_have_the_envelope_too(address: str) -> None:
    for response in (
        httpx.post(f"{address}/v1/chat/completions", content=b"{"),
        httpx.get(f"{address}/v1/chat/completions"),
        httpx.get(f"{address}/v1/models/"),
    ):
        assert response.status_code in (400, 404, 405)
        assert response.json()["error"]["message"]
