"""The two short addresses, over a real socket, with request lines as clients really write them."""

import http.client
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from gateway.app import create_app
from gateway.inference import EchoInference
from gateway.server import uvicorn_options
from gateway.settings import Settings
from gateway.store.memory import MemoryStore
from tests.gateway.conftest import count_words
from tests.gateway.serving import running

LONG = "🏏" * 20_480


def message_of(prompt: str) -> str:
    """Take the newest turn out of a prompt."""
    return prompt.partition("[CONTEXT] ")[2].partition(" [KNOWLEDGE]")[0]


def knowledge_of(prompt: str) -> str:
    return prompt.partition("[KNOWLEDGE] ")[2]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The gateway on a socket, over memory and an echo, its budget too large to cut anything."""
    settings = Settings(prompt_budget=60_000)
    app = create_app(settings, store=MemoryStore(), inference=EchoInference(), count_tokens=count_words)
    with running(app, **uvicorn_options(settings) | {"lifespan": "on"}) as url:
        yield url


def get(address: str, target: str) -> tuple[int, Any]:
    """Send the request line as it is given; nothing on the way normalises it."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=10)
    try:
        connection.putrequest("GET", target, skip_accept_encoding=True)
        connection.endheaders()
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def said(address: str, target: str) -> str:
    """Return what the model was asked when `target` was requested."""
    status, body = get(address, target)
    assert status == 200, body
    assert body.keys() == {"response"}
    return str(body["response"])


def test_a_context_creates_the_bot_and_a_chat_answers_from_it(address: str) -> None:
    assert get(address, "/fresh/context/Eleven%20players.") == (
        200,
        {"response": "Context updated successfully for fresh"},
    )
    prompt = said(address, "/fresh/chat/How%20many?")
    assert (message_of(prompt), knowledge_of(prompt)) == ("How many", "Eleven players.")


def test_a_new_context_replaces_the_old_one(address: str) -> None:
    for knowledge in ("old", "new"):
        assert get(address, f"/changing/context/{knowledge}")[0] == 200
    assert knowledge_of(said(address, "/changing/chat/x")) == "new"


def test_chats_do_not_remember_each_other(address: str) -> None:
    get(address, "/forgetful/context/k")
    assert message_of(said(address, "/forgetful/chat/first")) == "first"
    assert message_of(said(address, "/forgetful/chat/second")) == "second"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("a/b/c", "a/b/c"),
        ("a%2Fb", "a/b"),
        ("//a//", "//a//"),
        ("trailing/", "trailing/"),
        ("100%25", "100%"),
        ("%2541", "%41"),  # decoded once this is "%41"; twice it would be "A"
        ("%25252F", "%252F"),
        ("what%3F", "what?"),
        ("a%23b", "a#b"),
        ("%F0%9F%8F%8F%20bat", "🏏 bat"),
        ("line%0Aone%0D%0Atwo%0A", "line one two"),
        ("../../etc", "../../etc"),
        ("x/chat/y", "x/chat/y"),
        ("x/context/y", "x/context/y"),
        ("50%", "50%"),  # not an escape at all
        ("a+b&c=d;e", "a+b&c=d;e"),
        ("%FF%FE", "\ufffd\ufffd"),  # not UTF-8: replaced, not an error
    ],
)
def test_a_message_arrives_as_it_was_meant(address: str, written: str, meant: str) -> None:
    assert get(address, f"/bot/context/{written}")[0] == 200
    prompt = said(address, f"/bot/chat/{written}")
    assert (message_of(prompt), knowledge_of(prompt)) == (meant, meant)


@pytest.mark.parametrize("text", ["x" * 20_480, LONG], ids=["letters", "emoji"])
def test_a_message_of_20_kb_arrives_whole(address: str, text: str) -> None:
    assert get(address, f"/long/context/{quote('k')}")[0] == 200
    assert message_of(said(address, f"/long/chat/{quote(text, safe='')}")) == text


def test_knowledge_of_20_kb_arrives_whole(address: str) -> None:
    assert get(address, f"/learned/context/{quote(LONG)}")[0] == 200


def test_a_message_beyond_the_limit_is_refused_by_name(address: str) -> None:
    get(address, "/bot/context/k")
    status, problem = get(address, f"/bot/chat/{'x' * 32_769}")
    assert (status, problem["problems"]) == (422, {"message": "has 32769 characters, more than 32768"})


def test_an_unknown_bot_is_404_and_the_body_says_which(address: str) -> None:
    status, problem = get(address, "/nobody/chat/hello")
    assert status == 404
    assert "nobody" in problem["detail"]


@pytest.mark.parametrize("blank", ["", "%20", "%0A", "%E2%80%8B"])
@pytest.mark.parametrize("action", ["chat", "context"])
def test_an_empty_message_is_422(address: str, action: str, blank: str) -> None:
    get(address, "/bot/context/k")
    status, problem = get(address, f"/bot/{action}/{blank}")
    assert status == 422
    assert "blank" in problem["detail"]


@pytest.mark.parametrize("name", ["v1", "docs", "redoc", "openapi.json", "healthz", "readyz", "livez", "metrics"])
@pytest.mark.parametrize("action", ["chat", "context"])
def test_a_bot_cannot_have_the_name_of_a_route(address: str, action: str, name: str) -> None:
    status, problem = get(address, f"/{name}/{action}/x")
    assert status == 422
    assert "address of the gateway itself" in problem["detail"]


@pytest.mark.parametrize("name", [".hidden", "-dash", "a%20b", "b%C3%B6t", "x" * 65, "a%0A", "%00", "a%3Fb"])
@pytest.mark.parametrize("action", ["chat", "context"])
def test_a_bot_name_that_breaks_the_rule_is_422_and_says_the_rule(address: str, action: str, name: str) -> None:
    status, problem = get(address, f"/{name}/{action}/x")
    assert status == 422
    assert "letters, digits" in problem["detail"]


def test_knowledge_with_a_nul_is_refused(address: str) -> None:
    assert get(address, "/bot/context/a%00b")[0] == 422


@pytest.mark.parametrize("target", ["//", "/bot", "/bot/", "/bot/chat", "//chat/x", "/a/b/c", "/bot/%63hat"])
def test_what_is_no_address_is_a_404_problem(address: str, target: str) -> None:
    status, problem = get(address, target)
    assert (status, problem["type"]) == (404, "urn:godel-serve:no-such-route")
