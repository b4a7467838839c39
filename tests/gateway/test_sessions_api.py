"""Sessions over HTTP: a bot that remembers, each person apart."""

import asyncio
import json
from datetime import timedelta

import httpx
import pytest

from gateway.app import create_app
from gateway.conversations import RECENT_EXCHANGES, Conversations
from gateway.errors import ModelDown, StoreUnavailable
from gateway.inference import EchoInference
from gateway.settings import Settings
from gateway.store.memory import MemoryStore, now
from tests.gateway.conftest import count_words
from tests.gateway.events import parse

pytestmark = pytest.mark.anyio

BOT = "/v1/bots/cricket"


@pytest.fixture
async def session(client: httpx.AsyncClient, model: EchoInference) -> str:
    model.answer = lambda _: f"answer {len(model.requests)}"
    (await client.put(BOT, json={"knowledge": "Eleven play."})).raise_for_status()
    response = await client.post(f"{BOT}/sessions")
    assert response.status_code == 201
    assert response.headers["location"] == f"{BOT}/sessions/{response.json()['session_id']}"
    return str(response.json()["session_id"])


async def turns(client: httpx.AsyncClient, session: str) -> list[tuple[int, str, str]]:
    read = (await client.get(f"{BOT}/sessions/{session}")).raise_for_status().json()
    return [(turn["number"], turn["message"], turn["response"]) for turn in read["turns"]]


def dialogue(model: EchoInference) -> str:
    """Return the turns of the last prompt."""
    return model.requests[-1].prompt.partition("[CONTEXT] ")[2].partition(" [KNOWLEDGE]")[0]


@pytest.mark.parametrize("stream", [False, True])
async def test_what_was_said_comes_before_what_is_said(
    client: httpx.AsyncClient, model: EchoInference, session: str, stream: bool
) -> None:
    for message in ("How many?", "And in reserve?"):
        asked = {"message": message, "session_id": session, "stream": stream}
        (await client.post(f"{BOT}/chat", json=asked)).raise_for_status()
    assert dialogue(model) == "How many? EOS answer 1 EOS And in reserve?"
    assert await turns(client, session) == [(1, "How many?", "answer 1"), (2, "And in reserve?", "answer 2")]


async def test_turns_that_are_too_long_ago_to_be_read_are_counted_as_left_out(
    client: httpx.AsyncClient, model: EchoInference, session: str
) -> None:
    for number in range(RECENT_EXCHANGES + 5):
        said = {"message": f"q{number}", "session_id": session}
        answer = (await client.post(f"{BOT}/chat", json=said)).raise_for_status().json()
        turns = dialogue(model).count(" EOS ") + 1
        assert answer["left_out"]["turns"] == 2 * number + 1 - turns
    assert answer["left_out"]["turns"] >= 2 * 4


async def test_what_no_database_holds_cannot_be_asked_for(client: httpx.AsyncClient, session: str) -> None:
    assert session
    for response in (
        await client.get(f"{BOT}/sessions/%00"),
        await client.delete(f"{BOT}/sessions/%00"),
        await client.get(f"{BOT}/sessions?after=%00"),
        await client.post(f"{BOT}/chat", json={"message": "x", "session_id": "\0"}),
    ):
        assert response.status_code == 422


async def test_two_people_on_one_bot_never_see_each_others_turns(
    client: httpx.AsyncClient, model: EchoInference, session: str
) -> None:
    other = (await client.post(f"{BOT}/sessions")).json()["session_id"]
    await client.post(f"{BOT}/chat", json={"message": "Mine.", "session_id": session})
    await client.post(f"{BOT}/chat", json={"message": "Yours.", "session_id": other})
    assert dialogue(model) == "Yours."
    await client.post(f"{BOT}/chat", json={"message": "Nobody's."})
    assert dialogue(model) == "Nobody's."
    await client.get("/cricket/chat/By%20URL.")
    assert [message for _, message, _ in await turns(client, session)] == ["Mine."]
    assert [message for _, message, _ in await turns(client, other)] == ["Yours."]


async def test_messages_at_once_in_one_session_are_all_remembered_whole(
    client: httpx.AsyncClient, model: EchoInference, session: str
) -> None:
    model.answer = lambda request: "echo " + request.prompt.partition(" [KNOWLEDGE]")[0].rpartition(" ")[2]
    asked = [client.post(f"{BOT}/chat", json={"message": f"m{n}", "session_id": session}) for n in range(12)]
    assert {response.status_code for response in await asyncio.gather(*asked)} == {200}
    kept = await turns(client, session)
    assert [number for number, _, _ in kept] == list(range(1, 13))
    assert {(message, response) for _, message, response in kept} == {(f"m{n}", f"echo m{n}") for n in range(12)}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failed_answer_leaves_the_session_as_it_was(
    client: httpx.AsyncClient, model: EchoInference, session: str, stream: bool
) -> None:
    model.answer = lambda _: "one two three"
    if stream:
        model.breaks_after = 2
    else:
        model.failure = ModelDown("gone")
    response = await client.post(f"{BOT}/chat", json={"message": "m", "session_id": session, "stream": stream})
    assert response.status_code == (200 if stream else 503)
    if stream:
        assert json.loads(parse(response.text)[-1].data)["type"] == "urn:godel-serve:model-down"
    assert await turns(client, session) == []


async def test_a_client_may_carry_the_dialogue_itself(
    client: httpx.AsyncClient, model: EchoInference, session: str
) -> None:
    messages = [("user", "Hi."), ("assistant", "Hello."), ("user", "It is me."), ("user", "How many?")]
    body = {"messages": [{"role": role, "content": content} for role, content in messages]}
    (await client.post(f"{BOT}/chat", json=body)).raise_for_status()
    assert dialogue(model) == "Hi. EOS Hello. EOS It is me. How many?"
    assert await turns(client, session) == []


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({}, "message"),
        ({"message": "m", "messages": [{"role": "user", "content": "m"}]}, "message"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "assistant", "content": "m"}]}, "messages"),
        ({"messages": [{"role": "system", "content": "m"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": "m"}], "session_id": "x"}, "session_id"),
    ],
)
async def test_what_cannot_be_answered_is_refused_by_name(
    client: httpx.AsyncClient, body: dict[str, object], name: str
) -> None:
    response = await client.post(f"{BOT}/chat", json=body)
    assert response.status_code == 422
    assert name in response.json()["problems"]


async def test_sessions_are_listed_by_pages_and_deleted(client: httpx.AsyncClient, session: str) -> None:
    for _ in range(3):
        await client.post(f"{BOT}/sessions")
    first = (await client.get(f"{BOT}/sessions", params={"limit": 3})).json()
    second = (await client.get(f"{BOT}/sessions", params={"limit": 3, "after": first["next_after"]})).json()
    assert [item["session_id"] for item in second["sessions"]] == [session]
    assert second["next_after"] is None
    assert (await client.delete(f"{BOT}/sessions/{session}")).status_code == 204
    for response in (
        await client.get(f"{BOT}/sessions/{session}"),
        await client.delete(f"{BOT}/sessions/{session}"),
        await client.post(f"{BOT}/chat", json={"message": "m", "session_id": session}),
    ):
        assert (response.status_code, response.json()["type"]) == (404, "urn:godel-serve:session-not-found")


async def test_turns_are_read_by_pages(client: httpx.AsyncClient, session: str) -> None:
    for number in range(3):
        await client.post(f"{BOT}/chat", json={"message": f"m{number}", "session_id": session})
    first = (await client.get(f"{BOT}/sessions/{session}", params={"limit": 2})).json()
    assert (len(first["turns"]), first["next_after"], first["exchanges"]) == (2, 2, 3)
    second = (await client.get(f"{BOT}/sessions/{session}", params={"limit": 2, "after": 2})).json()
    assert ([turn["number"] for turn in second["turns"]], second["next_after"]) == ([3], None)


@pytest.mark.parametrize("path", ["/v1/bots/nobody/sessions", "/v1/bots/nobody/sessions/x"])
async def test_a_bot_that_is_not_there_has_no_sessions(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 404


async def test_a_bot_has_no_more_sessions_and_a_session_no_more_messages_than_allowed(
    settings: Settings, model: EchoInference
) -> None:
    few = settings.model_copy(update={"max_sessions": 2, "max_exchanges": 3})
    app = create_app(few, store=MemoryStore(), inference=model, count_tokens=count_words)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client,
    ):
        for bot in (BOT, "/v1/bots/chess"):
            await client.put(bot, json={"knowledge": "k"})
        first = (await client.post(f"{BOT}/sessions")).json()["session_id"]
        assert (await client.post(f"{BOT}/sessions")).status_code == 201
        refused = await client.post(f"{BOT}/sessions")
        assert (refused.status_code, refused.json()["type"]) == (409, "urn:godel-serve:too-many-sessions")
        assert (await client.post("/v1/bots/chess/sessions")).status_code == 201

        said = {"message": "x", "session_id": first}
        assert [(await client.post(f"{BOT}/chat", json=said)).status_code for _ in range(4)] == [200, 200, 200, 409]
        assert len(model.requests) == 3, "what is refused does not ask the model"
        assert len(await turns(client, first)) == 3
        await client.delete(f"{BOT}/sessions/{first}")
        assert (await client.post(f"{BOT}/sessions")).status_code == 201


async def test_the_sweeper_goes_on_after_a_failure_of_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    class Shaky(MemoryStore):
        calls = 0
        third = asyncio.Event()

        async def sweep_sessions(self, **_: object) -> int:
            self.calls += 1
            if self.calls == 3:
                self.third.set()
            if self.calls == 1:
                raise StoreUnavailable("locked")
            return 0

    monkeypatch.setattr("gateway.conversations.SWEEP_SECONDS", 0.0)
    monkeypatch.setattr("gateway.conversations.CALM_SECONDS", 0.0)
    store = Shaky()
    stop = asyncio.Event()
    sweeping = asyncio.ensure_future(Conversations(store=store, idle=timedelta(hours=1), clock=now).sweep(stop))
    await asyncio.wait_for(store.third.wait(), 5)
    stop.set()
    await sweeping
