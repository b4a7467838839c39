"""Limits by the minute: the same in memory and in Redis, and what clients see of them."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from gateway.app import create_app
from gateway.bots import Bot
from gateway.errors import Misconfigured, RateLimited
from gateway.inference import EchoInference
from gateway.keys import Caller
from gateway.limits import RateLimits
from gateway.settings import Settings
from gateway.store.memory import MemoryStore
from tests.gateway.conftest import count_words
from tests.gateway.redis_server import running_redis

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BOT = Bot(bot_id="cricket", created_at=NOW, updated_at=NOW, revision=1)
ALICE, BOB = Caller(key_id="alice", scope="chat"), Caller(key_id="bob", scope="chat")


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with running_redis() as url:
        yield url


@pytest.fixture(params=["memory", "redis"])
def place(request: pytest.FixtureRequest) -> str | None:
    """Where it is counted."""
    if request.param == "memory":
        return None
    url: str = request.getfixturevalue("redis_url")
    import redis

    redis.Redis(unix_socket_path=url.removeprefix("redis+unix://")).flushall()
    return url


async def admitted(limits: RateLimits, caller: Caller, bot: Bot, times: int) -> int:
    """Return how many of so many requests are let through."""
    through = 0
    for _ in range(times):
        try:
            await limits.admit(caller, bot)
            through += 1
        except RateLimited:
            pass
    return through


async def test_each_key_has_its_own_share_and_a_limit_of_its_own_wins(place: str | None) -> None:
    async with RateLimits.open(place, {"requests_per_minute": 3}) as limits:
        assert await admitted(limits, ALICE, BOT, 5) == 3
        assert await admitted(limits, replace(BOB, limits={"requests_per_minute": 1}), BOT, 5) == 1
        assert await admitted(limits, BOB, BOT, 2) == 2


async def test_all_callers_share_what_a_bot_has(place: str | None) -> None:
    bot = replace(BOT, limits={"requests_per_minute": 4})
    async with RateLimits.open(place, {}) as limits:
        assert await admitted(limits, ALICE, bot, 3) == 3
        assert await admitted(limits, BOB, bot, 3) == 1
        assert await admitted(limits, BOB, replace(bot, bot_id="chess"), 3) == 3


async def test_of_many_requests_at_once_no_more_than_the_limit_get_through(place: str | None) -> None:
    async with RateLimits.open(place, {"requests_per_minute": 7}) as limits:
        assert sum(await asyncio.gather(*(admitted(limits, ALICE, BOT, 1) for _ in range(30)))) == 7


async def test_tokens_are_counted_when_they_are_spent(place: str | None) -> None:
    async with RateLimits.open(place, {"tokens_per_minute": 100}) as limits:
        standing = await limits.admit(ALICE, BOT)
        assert standing is not None
        assert (standing.limit, standing.remaining) == (100, 100)
        await limits.spend(ALICE, BOT, 70)
        standing = await limits.admit(ALICE, BOT)
        assert standing is not None
        assert standing.remaining == 30
        assert 0 < standing.reset_seconds <= 60
        await limits.spend(ALICE, BOT, 70)  # the last one may go over
        with pytest.raises(RateLimited, match="100 tokens a minute") as refusal:
            await limits.admit(ALICE, BOT)
        assert refusal.value.standing.remaining == 0
        assert await admitted(limits, BOB, BOT, 1) == 1


async def test_the_standing_is_that_of_the_limit_nearest_to_its_end(place: str | None) -> None:
    bot = replace(BOT, limits={"requests_per_minute": 10})
    async with RateLimits.open(place, {"requests_per_minute": 1000}) as limits:
        standing = await limits.admit(ALICE, bot)
        assert standing is not None
        assert (standing.limit, standing.remaining) == (10, 9)


async def test_what_is_not_limited_has_no_standing(place: str | None) -> None:
    async with RateLimits.open(place, {}) as limits:
        assert await limits.admit(ALICE, BOT) is None


async def test_two_gateways_count_together_in_redis(redis_url: str) -> None:
    bot = replace(BOT, bot_id="shared", limits={"requests_per_minute": 5})
    async with RateLimits.open(redis_url, {}) as one, RateLimits.open(redis_url, {}) as other:
        assert await admitted(one, ALICE, bot, 3) + await admitted(other, ALICE, bot, 9) == 5


async def test_without_its_redis_nobody_is_limited_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async with RateLimits.open("redis://127.0.0.1:1", {"requests_per_minute": 1}) as limits:
        assert await admitted(limits, ALICE, BOT, 9) == 9
        await limits.spend(ALICE, BOT, 9)
    assert [record.levelname for record in caplog.records if record.name == "gateway.limits"] == ["WARNING"]


@pytest.mark.parametrize("url", ["nosuch://x", "redis"])
async def test_a_redis_address_of_nothing_is_a_misconfiguration(url: str) -> None:
    with pytest.raises(Misconfigured, match="redis_url"):
        async with RateLimits.open(url, {}):
            pass


@pytest.fixture
async def limited(settings: Settings, model: EchoInference) -> AsyncIterator[httpx.AsyncClient]:
    """A gateway that asks for keys and gives each two requests a minute."""
    chosen = settings.model_copy(update={"admin_key": SecretStr("k" * 16), "requests_per_minute": 2})
    app = create_app(chosen, store=MemoryStore(), inference=model, count_tokens=count_words)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://gateway", headers={"X-API-Key": "k" * 16}
        ) as client,
    ):
        await client.put("/v1/bots/cricket", json={"knowledge": "k"})
        yield client


ADDRESSES: dict[str, tuple[str, str, Any]] = {
    "own": ("POST", "/v1/bots/cricket/chat", {"message": "x"}),
    "own streamed": ("POST", "/v1/bots/cricket/chat", {"message": "x", "stream": True}),
    "in a session": ("POST", "/v1/bots/cricket/chat", {"message": "x", "session_id": "a session"}),
    "openai": ("POST", "/v1/chat/completions", {"model": "cricket", "messages": [{"role": "user", "content": "x"}]}),
    "short": ("GET", "/cricket/chat/x", None),
}


@pytest.mark.parametrize("address", ADDRESSES)
async def test_every_way_to_ask_counts_and_says_how_the_limit_stands(limited: httpx.AsyncClient, address: str) -> None:
    method, path, body = ADDRESSES[address]
    if address == "in a session":
        body = body | {"session_id": (await limited.post("/v1/bots/cricket/sessions")).json()["session_id"]}
    remaining = []
    for _ in range(2):
        response = await limited.request(method, path, json=body)
        assert response.status_code == 200
        assert response.headers["ratelimit-limit"] == "2"
        remaining.append(response.headers["ratelimit-remaining"])
    assert remaining == ["1", "0"]
    refused = await limited.request(method, path, json=body)
    assert refused.status_code == 429
    assert refused.headers["ratelimit-remaining"] == "0"
    assert 0 < int(refused.headers["retry-after"]) <= 60
    assert refused.headers["retry-after"] == refused.headers["ratelimit-reset"]
    if address == "openai":
        assert refused.json()["error"]["type"] == "rate_limit_error"
    else:
        assert refused.json()["type"] == "urn:godel-serve:rate-limited"


async def test_what_asks_no_model_is_not_limited(limited: httpx.AsyncClient) -> None:
    for _ in range(4):
        assert (await limited.get("/v1/bots")).status_code == 200


async def test_an_answer_counts_its_tokens_for_key_and_bot(limited: httpx.AsyncClient) -> None:
    await limited.put("/v1/bots/small", json={"knowledge": "k", "limits": {"tokens_per_minute": 1}})
    first = await limited.post("/v1/bots/small/chat", json={"message": "x"})
    assert first.status_code == 200
    second = await limited.post("/v1/bots/small/chat", json={"message": "x"})
    assert second.status_code == 429
    assert "the bot small may have 1 tokens a minute" in second.json()["detail"]
