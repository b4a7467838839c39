"""What holds for every request: its id, its line in the log, its limits, and no failure without a problem."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator

import httpx
import pytest

from gateway import errors, problems
from gateway.app import create_app
from gateway.bots import Bot, BotDraft
from gateway.inference import EchoInference
from gateway.settings import Settings
from gateway.store.memory import MemoryStore
from gateway.turns import PROBES
from tests.gateway.conftest import count_words

pytestmark = pytest.mark.anyio

SECRET = "xylophone"  # noqa: S105 - what a user wrote


async def test_a_request_id_is_made_when_none_is_given(client: httpx.AsyncClient) -> None:
    ids = {(await client.get("/healthz")).headers["x-request-id"] for _ in range(2)}
    assert len(ids) == 2


async def test_a_harmless_request_id_is_kept_returned_and_forwarded(
    client: httpx.AsyncClient, model: EchoInference
) -> None:
    await client.get("/bot/context/k")
    response = await client.get("/bot/chat/x", headers={"X-Request-ID": "order:66.a_b-c"})
    assert response.headers["x-request-id"] == "order:66.a_b-c"
    assert model.requests[-1].request_id == "order:66.a_b-c"


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "a\tb", "ümlaut".encode().decode("latin-1"), "<script>"])
async def test_a_request_id_that_could_harm_a_log_is_replaced(client: httpx.AsyncClient, given: str) -> None:
    response = await client.get("/nowhere", headers={b"X-Request-ID": given.encode("latin-1")})
    made = response.headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]{32}", made)
    assert response.json()["request_id"] == made


async def test_a_request_is_one_line_with_its_template_and_no_word_of_its_user(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await client.get(f"/bot/context/{SECRET}")
    await client.get(f"/bot/chat/{SECRET}", headers={"X-Request-ID": "r-1"})
    await client.get(f"/{SECRET}/chat/{SECRET}?{SECRET}")
    await client.post("/v1/bots/bot/chat", json={"message": SECRET, "parameters": {SECRET: SECRET}})
    await client.put("/v1/bots/bot", json={"knowledge": [SECRET], SECRET: 1})
    await client.request(SECRET.upper(), f"/{SECRET}")
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("gateway")]
    assert len(lines) == 6
    assert re.fullmatch(r"GET /\{bot_id\}/chat/\{message\} 200 \d+\.\d ms caller=local", lines[1])
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith("http")]
    assert SECRET not in "\n".join(ours).lower()


@pytest.mark.parametrize("probe", sorted(PROBES))
async def test_a_probe_that_is_answered_well_is_told_at_level_debug_alone(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, probe: str
) -> None:
    caplog.set_level(logging.DEBUG)
    await client.get(probe)
    await client.post(probe)
    lines = [record for record in caplog.records if record.name == "gateway.request"]
    assert [(record.levelname, record.status) for record in lines] == [("DEBUG", 200), ("INFO", 405)]  # type: ignore[attr-defined]


class BrokenStore(MemoryStore):
    """Fails in a way that nobody foresaw, quoting what a user wrote."""

    async def teach(self, draft: BotDraft) -> Bot:
        try:
            raise KeyError(draft.knowledge)
        except KeyError as error:
            raise RuntimeError(f"cannot keep {draft.knowledge}") from error


@pytest.fixture
async def broken(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(settings, store=BrokenStore(), inference=EchoInference(), count_tokens=count_words)
    async with app.router.lifespan_context(app):
        yield httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1")


async def test_an_unforeseen_failure_is_a_500_without_detail_logged_with_its_stack(
    broken: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    response = await broken.get(f"/bot/context/{SECRET}", headers={"X-Request-ID": "r-9"})
    assert response.status_code == 500
    assert response.json()["type"] == "urn:godel-serve:internal-error"
    assert SECRET not in response.text
    logged = "\n".join(record.getMessage() for record in caplog.records)
    assert [record.request_id for record in caplog.records if "unexpectedly" in record.msg] == ["r-9"]  # type: ignore[attr-defined]
    assert "RuntimeError" in logged
    assert "KeyError" in logged
    assert "in teach" in logged
    assert SECRET not in logged


async def test_a_body_beyond_every_limit_is_413_whether_announced_or_not(settings: Settings) -> None:
    small = settings.model_copy(update={"max_knowledge_characters": 10, "max_document_bytes": 10})
    app = create_app(small, store=MemoryStore(), inference=EchoInference(), count_tokens=count_words)

    async def drip() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 1000

    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client,
    ):
        for content in (b" " * 100_000, drip()):
            response = await client.put("/v1/bots/b", content=content, headers={"content-type": "application/json"})
            assert response.status_code == 413
            assert response.headers["content-type"] == "application/problem+json"
            assert response.headers["x-request-id"] == response.json()["request_id"]


async def test_unknown_addresses_and_methods_are_problems(client: httpx.AsyncClient) -> None:
    missing = await client.get("/v1/nothing")
    assert (missing.status_code, missing.json()["type"]) == (404, "urn:godel-serve:no-such-route")
    wrong = await client.post("/v1/bots/b")
    assert (wrong.status_code, wrong.json()["type"]) == (405, "urn:godel-serve:method-not-allowed")
    assert wrong.headers["allow"]


async def test_no_answer_may_be_kept_by_a_cache(client: httpx.AsyncClient) -> None:
    assert (await client.get("/bot/context/x")).headers["cache-control"] == "no-store"


async def test_work_for_a_client_that_goes_away_is_cancelled(settings: Settings) -> None:
    model = EchoInference(gate=asyncio.Event())
    store = MemoryStore()
    await store.put(BotDraft(bot_id="bot"))
    app = create_app(settings, store=store, inference=model, count_tokens=count_words)
    body_read, sent = False, []

    async def receive() -> dict[str, object]:
        nonlocal body_read
        if not body_read:
            body_read = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await model.asked.wait()  # the client hangs up only when the model is at work
        return {"type": "http.disconnect"}

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/bot/chat/x",
        "headers": [(b"host", b"localhost")],
        "query_string": b"",
    }
    async with app.router.lifespan_context(app):
        await asyncio.wait_for(app(scope, receive, send), timeout=5)  # type: ignore[arg-type]  # plain dicts
    assert model.cancelled == 1
    assert sent[0]["status"] == 499


def concrete(kind: type[errors.GatewayError]) -> set[type[errors.GatewayError]]:
    below = kind.__subclasses__()
    return {kind} if not below else set().union(*map(concrete, below))


def test_every_error_has_a_status_and_a_place_in_the_drawing() -> None:
    assert errors.STATUSES.keys() == concrete(errors.GatewayError) | {errors.ModelDown}
    assert all(kind.__name__ in (errors.__doc__ or "") for kind in errors.STATUSES)
    assert errors.RETRY_AFTER_SECONDS.keys() <= errors.STATUSES.keys()


def test_a_problem_holds_any_text() -> None:
    response = problems.respond(problems.make_problem("r", 422, "kind", "half \ud800", {"\ud800": "\udfff"}), "/")
    assert bytes(response.body).decode("utf-8")


async def test_a_body_that_is_sent_as_a_form_is_told_how_to_be_sent(client: httpx.AsyncClient) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    response = await client.post("/v1/bots/b/chat", content=b'{"message": "a"}', headers=form)
    assert response.status_code == 422
    assert "Content-Type: application/json" in response.json()["detail"]
    response = await client.post("/v1/bots/b/chat", json={"mesage": "a"})
    assert response.json()["problems"]["mesage"] == "is no field of this request"
