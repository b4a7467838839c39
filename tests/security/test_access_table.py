"""Every route, tried by every kind of caller with what it would really send: the whole table of who may do what.

The table is written out here on its own, not taken from `gateway/access.py`: a slip there shows here.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import httpx
import pytest
from fastapi.routing import APIRoute, iter_route_contexts
from pydantic import SecretStr

from gateway.access import NEEDS
from gateway.app import create_app
from gateway.bots import BotDraft
from gateway.deployments import OWN, Address, Deployment, Routing
from gateway.inference import EchoInference
from gateway.keys import ADMIN, Keys, Scope
from gateway.settings import Settings
from gateway.store.memory import MemoryStore

pytestmark = pytest.mark.anyio

ADMIN_KEY = "an admin key for tests"
MARK = "xylophone"
"""Stands in all that belongs to the bot, and in nothing that was asked."""
WITHOUT = ("no key", "wrong key", "expired", "revoked")
FOREIGN = ("chat elsewhere", "edit elsewhere")
CHAT_HERE, EDIT_HERE = ("chat here", "chat everywhere"), ("edit here", "edit everywhere")
ADMINS = ("admin key", "the admin")
ROLES = (*WITHOUT, *FOREIGN, *CHAT_HERE, *EDIT_HERE, *ADMINS)

ANYBODY: Final = frozenset(ROLES)
ANY_KEY: Final = frozenset((*FOREIGN, *CHAT_HERE, *EDIT_HERE, *ADMINS))
TALKERS: Final = frozenset((*CHAT_HERE, *EDIT_HERE, *ADMINS))
EDITORS: Final = frozenset((*EDIT_HERE, *ADMINS))
ALL_BOTS: Final = frozenset(("chat everywhere", "edit everywhere", *ADMINS))
EDIT_ALL_BOTS: Final = frozenset(("edit everywhere", *ADMINS))
ADMINISTRATORS: Final = frozenset(ADMINS)

MAY: Final[dict[str, frozenset[str]]] = {
    "GET /": ANYBODY,
    "GET /docs": ANYBODY,
    "GET /static/{name}": ANYBODY,
    "GET /healthz": ANYBODY,
    "GET /livez": ANYBODY,
    "GET /readyz": ANYBODY,
    "GET /metrics": ALL_BOTS,
    "GET /v1/model": ANY_KEY,
    "GET /v1/bots": ANY_KEY,
    "POST /v1/bots": EDIT_ALL_BOTS,
    "GET /v1/bots/{bot_id}": EDITORS,
    "PUT /v1/bots/{bot_id}": EDITORS,
    "PATCH /v1/bots/{bot_id}": EDITORS,
    "DELETE /v1/bots/{bot_id}": EDITORS,
    "GET /v1/bots/{bot_id}/knowledge": EDITORS,
    "PUT /v1/bots/{bot_id}/knowledge": EDITORS,
    "POST /v1/bots/{bot_id}/sessions": TALKERS,
    "GET /v1/bots/{bot_id}/sessions": EDITORS,
    "GET /v1/bots/{bot_id}/sessions/{session_id}": TALKERS,
    "DELETE /v1/bots/{bot_id}/sessions/{session_id}": TALKERS,
    "POST /v1/bots/{bot_id}/chat": TALKERS,
    "GET /v1/models": ANY_KEY,
    "GET /v1/models/{model}": TALKERS,
    "POST /v1/chat/completions": TALKERS,
    "POST /v1/keys": ADMINISTRATORS,
    "GET /v1/keys": ADMINISTRATORS,
    "GET /v1/keys/{key_id}": ADMINISTRATORS,
    "DELETE /v1/keys/{key_id}": ADMINISTRATORS,
    "POST /v1/keys/{key_id}/rotate": ADMINISTRATORS,
    "GET /v1/deployments": ADMINISTRATORS,
    "GET /v1/deployments/{name}": ADMINISTRATORS,
    "PUT /v1/deployments/{name}": ADMINISTRATORS,
    "PUT /v1/deployments/{name}/weight": ADMINISTRATORS,
    "POST /v1/deployments/rollback": ADMINISTRATORS,
    "DELETE /v1/deployments/{name}": ADMINISTRATORS,
    "GET /{bot_id}/context/{message}": EDITORS,
    "GET /{bot_id}/chat/{message}": TALKERS,
}

BODIES: Final[dict[str, dict[str, Any]]] = {
    "POST /v1/bots": {"json": {"name": "new"}},
    "PUT /v1/bots/{bot_id}": {"json": {"knowledge": "other"}},
    "PATCH /v1/bots/{bot_id}": {"json": {"name": "other"}},
    "PUT /v1/bots/{bot_id}/knowledge": {"content": b"other", "headers": {"Content-Type": "text/plain"}},
    "POST /v1/bots/{bot_id}/chat": {"json": {"message": "hello"}},
    "POST /v1/chat/completions": {"json": {"model": "cricket", "messages": [{"role": "user", "content": "hello"}]}},
    "POST /v1/keys": {"json": {"scope": "chat"}},
    "POST /v1/keys/{key_id}/rotate": {"json": {}},
    "PUT /v1/deployments/{name}": {
        "json": {"instances": [{"inference_url": "http://m", "management_url": "http://m"}]}
    },
    "PUT /v1/deployments/{name}/weight": {"json": {"weight": 10}},
}


def count_words(text: str) -> int:
    return len(text.split())  # as the echo counts


@dataclass
class House:
    """A gateway that asks for keys, two bots in it, and a key for every role."""

    client: httpx.AsyncClient
    store: MemoryStore
    tokens: dict[str, str | None]
    session_id: str = ""
    key_id: str = ""

    async def furnish(self) -> None:
        """Bring the bot, a session of it, a key and a deployment to try things on back to what they were."""
        own, added = (
            Deployment(name=OWN, weight=100),
            Deployment(name="page.js", instances=(Address("http://m", "http://m"),)),
        )
        revision = (await self.store.read_routing()).revision + 1
        await self.store.write_routing(
            Routing(revision=revision, deployments=(own, added), earlier=({OWN: 90, "page.js": 10},))
        )
        draft = BotDraft(bot_id="cricket", knowledge=f"{MARK} knowledge", name=f"{MARK} name")
        await self.store.put(draft)
        self.session_id = (await self.store.create_session("cricket")).session_id
        key, _ = await self.keys.issue(name=f"{MARK} key", scope="chat", bots=["cricket"], by=ADMIN)
        self.key_id = key.key_id
        said = {"message": f"{MARK} question", "session_id": self.session_id}
        reply = await self.client.post("/v1/bots/cricket/chat", json=said, headers=bearer(ADMIN_KEY))
        assert reply.status_code == 200

    @property
    def keys(self) -> Keys:
        return Keys(self.store, ADMIN_KEY, lambda: datetime.now(UTC))

    async def state(self) -> object:
        """Return all that a request could change."""
        return (
            await self.store.page(limit=100),
            await self.store.page_sessions("cricket", limit=100, after="", since=datetime(2000, 1, 1, tzinfo=UTC)),
            await self.store.page_exchanges(self.session_id, limit=100, after=0),
            {key.key_id for key in (await self.store.page_keys(limit=1000)).keys},
            await self.store.read_routing(),
        )

    async def ask(self, route: str, role: str) -> httpx.Response:
        """Send what `route` is for, about cricket, as `role`."""
        method, address = route.split()
        own = {"bot_id": "cricket", "model": "cricket", "session_id": self.session_id, "key_id": self.key_id}
        for name, value in (own | {"message": "hello", "name": "page.js"}).items():
            address = address.replace(f"{{{name}}}", value)
        body = dict(BODIES.get(route, {}))
        token = self.tokens[role]
        headers = body.pop("headers", {}) | (bearer(token) if token else {})
        return await self.client.request(method, address, headers=headers, **body)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def tokens_of(store: MemoryStore) -> dict[str, str | None]:
    """Return a token for each role."""
    keys = Keys(store, ADMIN_KEY, lambda: datetime.now(UTC))
    tokens: dict[str, str | None] = {"no key": None, "the admin": ADMIN_KEY}
    scopes: list[tuple[str, Scope, list[str] | None]] = [
        ("chat elsewhere", "chat", ["chess"]),
        ("edit elsewhere", "edit", ["chess"]),
        ("chat here", "chat", ["chess", "cricket"]),
        ("edit here", "edit", ["cricket"]),
        ("chat everywhere", "chat", None),
        ("edit everywhere", "edit", None),
        ("admin key", "admin", None),
        ("revoked", "admin", None),
        ("wrong key", "admin", None),
    ]
    for role, scope, bots in scopes:
        key, tokens[role] = await keys.issue(name="", scope=scope, bots=bots, by=ADMIN)
        if role == "revoked":
            await keys.revoke(key.key_id, by=ADMIN)
    tokens["wrong key"] = f"{str(tokens['wrong key'])[:-43]}{'A' * 43}"  # a key's id with a secret that is not its own
    long_ago = datetime.now(UTC) - timedelta(days=9)
    _, tokens["expired"] = await Keys(store, ADMIN_KEY, lambda: long_ago).issue(
        name="", scope="admin", expires_at=long_ago + timedelta(days=1), by=ADMIN
    )
    return tokens


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def house() -> AsyncIterator[House]:
    store = MemoryStore()
    settings = Settings(admin_key=SecretStr(ADMIN_KEY), prompt_budget=64)
    # The answer is not the prompt: whether it holds the bot's knowledge is the model's business, not a door's.
    model = EchoInference(answer=lambda _: "an answer")
    app = create_app(settings, store=store, inference=model, count_tokens=count_words)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway.example") as client,
    ):
        await store.put(BotDraft(bot_id="chess", knowledge="of another"))
        house = House(client, store, await tokens_of(store))
        await house.furnish()
        yield house


def test_no_route_is_without_a_row() -> None:
    routes = {
        f"{method} {route.path_format}"
        for route in iter_route_contexts(create_app(Settings()).routes)
        if isinstance(route.original_route, APIRoute)
        for method in route.methods or ()
    }
    assert routes == MAY.keys() == NEEDS.keys()


@pytest.mark.parametrize("role", ROLES)
async def test_every_route_serves_those_it_is_for_and_tells_and_changes_nothing_for_others(
    house: House, role: str
) -> None:
    for route, may in MAY.items():
        before = await house.state()
        response = await house.ask(route, role)
        if role in may:
            assert response.status_code < 300, f"{role}: {route}: {response.text}"
        else:
            assert response.status_code == (401 if role in WITHOUT else 403), f"{role}: {route}: {response.text}"
            assert await house.state() == before, f"{role}: {route} changed something"
        if role in (*WITHOUT, *FOREIGN):
            assert MARK not in response.text, f"{role}: {route}"
            assert house.session_id not in response.text
        if role in may and not route.startswith("GET"):
            await house.furnish()


@pytest.mark.parametrize("role", [*CHAT_HERE[:1], *FOREIGN, *EDIT_HERE, *ADMINS])
async def test_a_session_is_nothing_under_another_bot_whoever_asks(house: House, role: str) -> None:
    before, headers = await house.state(), bearer(house.tokens[role] or "")
    address = f"/v1/bots/chess/sessions/{house.session_id}"
    allowed = role != "edit here"  # bound to cricket, it may not even ask about chess
    said = {"message": "hello", "session_id": house.session_id}
    for response in (
        await house.client.get(address, headers=headers),
        await house.client.delete(address, headers=headers),
        await house.client.post("/v1/bots/chess/chat", json=said, headers=headers),
        await house.client.post("/v1/bots/chess/chat", json=said | {"stream": True}, headers=headers),
    ):
        assert response.status_code == (404 if allowed else 403), response.text
        assert MARK not in response.text
    assert await house.state() == before


async def test_lists_show_a_bound_key_no_other_bot_and_no_other_bots_session(house: House) -> None:
    for role in FOREIGN:
        headers = bearer(house.tokens[role] or "")
        for address in ("/v1/bots", "/v1/bots?after=a", "/v1/models", "/v1/bots?limit=200"):
            assert "cricket" not in (await house.client.get(address, headers=headers)).text
    listed = await house.client.get("/v1/bots/chess/sessions", headers=bearer(house.tokens["edit elsewhere"] or ""))
    assert listed.json()["sessions"] == []
