"""An answer as events: the same words as in one piece, failures included, and nothing left behind."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from starlette.types import Message

from gateway import event_stream
from gateway.app import create_app
from gateway.errors import ModelBusy, ModelTimeout
from gateway.inference import EchoInference
from gateway.settings import Settings
from gateway.store.memory import MemoryStore
from tests.gateway.conftest import count_words
from tests.gateway.events import parse

pytestmark = pytest.mark.anyio

ASK = {"message": "How many?", "stream": True}


@pytest.fixture
async def bot(client: httpx.AsyncClient) -> str:
    (await client.put("/v1/bots/cricket", json={"knowledge": "Eleven play."})).raise_for_status()
    return "/v1/bots/cricket/chat"


async def test_the_parts_join_to_the_answer_that_the_last_event_holds(client: httpx.AsyncClient, bot: str) -> None:
    whole = (await client.post(bot, json={"message": "How many?"}, headers={"X-Request-ID": "r"})).json()
    response = await client.post(bot, json=ASK, headers={"X-Request-ID": "r"})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-request-id"] == "r"
    *parts, last = parse(response.text)
    assert {part.name for part in parts} == {"part"}
    assert len(parts) > 3
    assert "".join(json.loads(part.data)["text"] for part in parts) == whole["response"]
    assert (last.name, json.loads(last.data)) == ("answer", whole)


@pytest.mark.parametrize(
    ("change", "status", "kind"),
    [
        ({"message": " "}, 422, "invalid-input"),
        ({"parameters": {"top_p": 7}}, 422, "invalid-input"),
        ({"stream": "yes"}, 422, "invalid-input"),
    ],
)
async def test_bad_input_has_its_status_streamed_or_not(
    client: httpx.AsyncClient, bot: str, change: dict[str, Any], status: int, kind: str
) -> None:
    response = await client.post(bot, json=ASK | change)
    assert (response.status_code, response.json()["type"]) == (status, f"urn:godel-serve:{kind}")


async def test_a_model_that_fails_at_once_has_its_status(
    client: httpx.AsyncClient, bot: str, model: EchoInference
) -> None:
    model.failure = ModelBusy("full")
    response = await client.post(bot, json=ASK)
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert response.headers["content-type"] == "application/problem+json"


async def test_a_failure_on_the_way_is_the_last_event(
    client: httpx.AsyncClient, bot: str, model: EchoInference
) -> None:
    model.breaks_after = 2
    response = await client.post(bot, json=ASK, headers={"X-Request-ID": "r"})
    assert response.status_code == 200
    *parts, last = parse(response.text)
    assert [part.name for part in parts] == ["part", "part"]
    problem = json.loads(last.data)
    assert last.name == "problem"
    assert (problem["status"], problem["type"], problem["request_id"]) == (503, "urn:godel-serve:model-down", "r")


async def test_a_mistake_of_ours_on_the_way_says_nothing_of_itself(
    client: httpx.AsyncClient, bot: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.routes.chat.ChatOutput.of", lambda *_: 1 / 0)
    *_, last = parse((await client.post(bot, json=ASK)).text)
    assert last.name == "problem"
    assert json.loads(last.data)["detail"] == "something broke; it has been logged"


async def test_a_stream_that_waits_is_kept_alive_and_may_still_fail(
    client: httpx.AsyncClient, bot: str, model: EchoInference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "HEAD_START_SECONDS", 0.0)
    monkeypatch.setattr(event_stream, "KEEP_ALIVE_SECONDS", 0.01)
    model.gate = asyncio.Event()
    answering = asyncio.ensure_future(client.post(bot, json=ASK))
    await model.asked.wait()
    await asyncio.sleep(0.05)
    model.failure = ModelTimeout("too late")
    model.gate.set()
    response = await answering
    assert response.status_code == 200
    assert response.text.startswith(":")
    (only,) = parse(response.text)
    assert (only.name, json.loads(only.data)["status"]) == ("problem", 504)


@pytest.mark.parametrize("head_start", [0.0, 5.0], ids=["after the response began", "before"])
async def test_a_client_that_leaves_lets_go_of_the_model(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, head_start: float
) -> None:
    monkeypatch.setattr(event_stream, "HEAD_START_SECONDS", head_start)
    model = EchoInference(gate=asyncio.Event())
    app = create_app(settings, store=MemoryStore(), inference=model, count_tokens=count_words)
    body = json.dumps(ASK).encode()
    messages = asyncio.Queue[Message]()
    messages.put_nowait({"type": "http.request", "body": body})
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/bots/cricket/chat",
        "raw_path": b"/v1/bots/cricket/chat",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"host", b"localhost")],
    }
    async with app.router.lifespan_context(app):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
            await client.put("/v1/bots/cricket", json={"knowledge": "Eleven play."})
        serving = asyncio.ensure_future(app(scope, messages.get, send))
        await model.asked.wait()
        await asyncio.sleep(0.02)
        messages.put_nowait({"type": "http.disconnect"})
        await asyncio.wait_for(serving, 5)
    assert model.cancelled == 1
    assert bool(sent and sent[0]["status"] == 200) == (head_start == 0.0)
