"""A moderator sees questions before the model and answers before the client."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.app import create_app
from gateway.errors import ContentRefused, Misconfigured
from gateway.inference import EchoInference
from gateway.moderation import WordList, load_moderator
from gateway.settings import Settings
from gateway.store.memory import MemoryStore
from tests.gateway.conftest import count_words
from tests.gateway.events import parse

pytestmark = pytest.mark.anyio


class Softener:
    """Replaces a word in answers."""

    def __init__(self, settings: Settings) -> None:
        assert isinstance(settings, Settings)

    async def check_question(self, bot_id: str, text: str) -> None:
        if "forbidden" in text:
            raise ContentRefused(f"{bot_id} does not talk about that")

    async def check_answer(self, bot_id: str, text: str) -> str:  # noqa: ARG002 - the protocol's
        return text.replace("damn", "dear")


@asynccontextmanager
async def gateway(settings: Settings, model: EchoInference, **changes: Any) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(
        settings.model_copy(update=changes), store=MemoryStore(), inference=model, count_tokens=count_words
    )
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client,
    ):
        await client.put("/v1/bots/bot", json={"knowledge": "k"})
        yield client


async def test_a_moderator_of_ones_own_refuses_and_rewrites(settings: Settings, model: EchoInference) -> None:
    model.answer = lambda _: "damn good"
    async with gateway(settings, model, moderator=f"{__name__}:Softener") as client:
        refused = await client.post("/v1/bots/bot/chat", json={"message": "a forbidden thing"})
        assert (refused.status_code, refused.json()["type"]) == (422, "urn:godel-serve:content-refused")
        assert refused.json()["detail"] == "bot does not talk about that"
        assert model.requests == []
        whole = await client.post("/v1/bots/bot/chat", json={"message": "x"})
        assert whole.json()["response"] == "dear good"


async def test_of_a_streamed_answer_nothing_is_sent_before_it_is_checked(
    settings: Settings, model: EchoInference
) -> None:
    model.answer = lambda _: "damn good"
    async with gateway(settings, model, moderator=f"{__name__}:Softener") as client:
        events = parse((await client.post("/v1/bots/bot/chat", json={"message": "x", "stream": True})).text)
    assert [event.name for event in events] == ["part", "answer"]
    assert [json.loads(event.data).get("text", json.loads(event.data).get("response")) for event in events] == [
        "dear good"
    ] * 2


async def test_messages_and_knowledge_brought_along_are_looked_at_and_sessions_stay_clean(
    settings: Settings, model: EchoInference
) -> None:
    async with gateway(settings, model, moderator=f"{__name__}:Softener") as client:
        messages = [{"role": "system", "content": "forbidden"}, {"role": "user", "content": "x"}]
        refused = await client.post("/v1/chat/completions", json={"model": "bot", "messages": messages})
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "content_filter")
        session = (await client.post("/v1/bots/bot/sessions")).json()["session_id"]
        said = {"message": "forbidden", "session_id": session}
        assert (await client.post("/v1/bots/bot/chat", json=said)).status_code == 422
        assert (await client.get(f"/v1/bots/bot/sessions/{session}")).json()["exchanges"] == 0


async def test_the_word_list_refuses_whole_words_in_questions_and_answers(
    settings: Settings, model: EchoInference, tmp_path: Path
) -> None:
    words = tmp_path / "words.txt"
    words.write_text("Straße\nred herring\n\n", encoding="utf-8")
    chosen = {"moderator": "gateway.moderation:WordList", "moderation_words": words}
    model.answer = lambda request: "RED  herring" if "fish" in request.prompt else "fine"
    async with gateway(settings, model, **chosen) as client:
        statuses = {}
        for said in (
            "a STRASSE.",
            "\N{FULLWIDTH LATIN SMALL LETTER S}traße",
            "Straßen",
            "red\nherring",
            "redherring",
            "fish",
            "hello",
        ):
            statuses[said] = (await client.post("/v1/bots/bot/chat", json={"message": said})).status_code
    assert statuses == {
        "a STRASSE.": 422,
        "\N{FULLWIDTH LATIN SMALL LETTER S}traße": 422,
        "Straßen": 200,
        "red\nherring": 422,
        "redherring": 200,
        "fish": 422,
        "hello": 200,
    }


@pytest.mark.parametrize("name", ["nosuch.module:x", "gateway.moderation:nosuch", "gateway.moderation:re"])
def test_a_moderator_that_cannot_be_made_is_a_misconfiguration(settings: Settings, name: str) -> None:
    with pytest.raises(Misconfigured, match="moderator"):
        load_moderator(settings.model_copy(update={"moderator": name}))


@pytest.mark.parametrize("content", [None, b"", b"\n \n", b"\xff"])
def test_a_word_list_without_words_is_a_misconfiguration(
    settings: Settings, tmp_path: Path, content: bytes | None
) -> None:
    words = tmp_path / "words.txt"
    if content is not None:
        words.write_bytes(content)
    with pytest.raises(Misconfigured, match="words"):
        WordList(settings.model_copy(update={"moderation_words": words}))
    with pytest.raises(Misconfigured, match="GODEL_MODERATION_WORDS"):
        WordList(settings)
