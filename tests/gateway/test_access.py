"""Who may call what: every route is tried by every kind of caller, and the doors that no key opens."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute, iter_route_contexts
from pydantic import SecretStr, ValidationError

from gateway import app as composition
from gateway.access import NEEDS, Need
from gateway.app import create_app
from gateway.errors import Misconfigured, StoreUnavailable
from gateway.inference import EchoInference
from gateway.keys import ADMIN, Keys, Scope
from gateway.settings import Settings
from gateway.store.memory import MemoryStore
from tests.gateway.conftest import count_words

pytestmark = pytest.mark.anyio

ADMIN_KEY = "an admin key for tests"


def with_keys(settings: Settings) -> Settings:
    return settings.model_copy(update={"admin_key": SecretStr(ADMIN_KEY)})


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
async def guarded(settings: Settings, model: EchoInference, store: MemoryStore) -> AsyncIterator[httpx.AsyncClient]:
    """A client without a key of a gateway that asks for one, and has a bot called cricket."""
    app = create_app(with_keys(settings), store=store, inference=model, count_tokens=count_words)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway.example") as client,
    ):
        created = {"knowledge": "Eleven play."}
        (await client.put("/v1/bots/cricket", json=created, headers=bearer(ADMIN_KEY))).raise_for_status()
        yield client


async def make(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    response = await client.post("/v1/keys", json=fields, headers=bearer(ADMIN_KEY))
    assert response.status_code == 201, response.text
    made: dict[str, Any] = response.json()
    return made


async def tokens_of_every_role(client: httpx.AsyncClient, store: MemoryStore) -> dict[str, str | None]:
    made: dict[str, str | None] = {"nobody": None, "a guess": f"godel_{'0' * 20}_{'A' * 43}", "admin": ADMIN_KEY}
    roles: list[tuple[str, Scope, list[str] | None]] = [
        ("chat elsewhere", "chat", ["chess"]),
        ("chat here", "chat", ["chess", "cricket"]),
        ("chat everywhere", "chat", None),
        ("edit elsewhere", "edit", ["chess"]),
        ("edit here", "edit", ["cricket"]),
        ("edit everywhere", "edit", None),
        ("another admin", "admin", None),
    ]
    for role, scope, bots in roles:
        made[role] = (await make(client, scope=scope, bots=bots))["token"]
    revoked = await make(client, scope="admin")
    await client.delete(f"/v1/keys/{revoked['key_id']}", headers=bearer(ADMIN_KEY))
    long_ago = datetime.now(UTC) - timedelta(days=9)
    keys = Keys(store, ADMIN_KEY, lambda: long_ago)
    expired = await keys.issue(name="", scope="admin", expires_at=long_ago + timedelta(days=1), by=ADMIN)
    return made | {"revoked": revoked["token"], "expired": expired[1]}


def expected(role: str, need: Need | None, *, names_a_bot: bool) -> int | None:
    """Return the status of the refusal, or None where there is to be none."""
    if need is None:
        return None
    if role in ("nobody", "a guess", "revoked", "expired"):
        return 401
    scope, _, where = role.partition(" ")
    scope = "admin" if "admin" in role else scope
    ranks = ["chat", "edit", "admin"]
    if ranks.index(scope) < ranks.index(need.scope):
        return 403
    if where == "elsewhere" and (names_a_bot or need.every_bot):
        return 403
    return 403 if where == "here" and need.every_bot else None


async def test_every_route_lets_in_those_it_is_for_and_nobody_else(
    guarded: httpx.AsyncClient, store: MemoryStore
) -> None:
    roles = await tokens_of_every_role(guarded, store)
    routes = [
        (method, str(route.path_format))
        for route in iter_route_contexts(create_app(Settings()).routes)
        if isinstance(route.original_route, APIRoute)
        for method in route.methods or ()
    ]
    assert {f"{method} {path}" for method, path in routes} == set(NEEDS)
    # Nothing is deleted before all have tried: what deletes comes last, and admins after everybody else.
    for role, token in sorted(roles.items(), key=lambda item: "admin" in item[0]):
        for method, path in sorted(routes, key=lambda route: route[0] == "DELETE"):
            address = path
            for name in ("bot_id", "model"):
                address = address.replace(f"{{{name}}}", "cricket")
            for name in ("session_id", "key_id", "message"):
                address = address.replace(f"{{{name}}}", "x")
            response = await guarded.request(method, address, headers=bearer(token) if token else {})
            refusal = response.status_code if response.status_code in (401, 403) else None
            named = "{bot_id}" in path or "{model}" in path
            assert refusal == expected(role, NEEDS[f"{method} {path}"], names_a_bot=named), f"{role}: {method} {path}"


async def test_a_bot_named_in_the_body_is_checked_too(guarded: httpx.AsyncClient) -> None:
    asked = {"model": "cricket", "messages": [{"role": "user", "content": "How many?"}]}
    for bots, status in ((["chess"], 403), (["cricket"], 200)):
        token = (await make(guarded, scope="chat", bots=bots))["token"]
        response = await guarded.post("/v1/chat/completions", json=asked, headers=bearer(token))
        assert response.status_code == status
    assert response.json()["object"] == "chat.completion"


async def test_a_foreign_key_learns_not_whether_a_bot_exists(guarded: httpx.AsyncClient) -> None:
    headers = bearer((await make(guarded, scope="edit", bots=["chess"]))["token"])
    details = {
        (await guarded.get(f"/v1/bots/{bot}", headers=headers)).json()["detail"] for bot in ("cricket", "nosuch")
    }
    assert len(details) == 1


async def test_lists_show_a_bound_key_its_own_bots_only(guarded: httpx.AsyncClient) -> None:
    for bot in ("chess", "go"):
        await guarded.put(f"/v1/bots/{bot}", json={}, headers=bearer(ADMIN_KEY))
    headers = bearer((await make(guarded, scope="chat", bots=["go", "chess", "unborn"]))["token"])
    page = (await guarded.get("/v1/bots?limit=1", headers=headers)).json()
    assert ([bot["bot_id"] for bot in page["bots"]], page["next_after"]) == (["chess"], "chess")
    rest = (await guarded.get("/v1/bots?after=chess", headers=headers)).json()
    assert [bot["bot_id"] for bot in rest["bots"]] == ["go"]
    models = (await guarded.get("/v1/models", headers=headers)).json()
    assert [model["id"] for model in models["data"]] == ["chess", "go"]


async def test_a_refusal_comes_before_the_body_is_read(guarded: httpx.AsyncClient) -> None:
    async def body() -> AsyncIterator[bytes]:
        raise AssertionError("the body was asked for")
        yield b""

    response = await guarded.put("/v1/bots/cricket", content=body())
    assert response.status_code == 401


@pytest.mark.parametrize("header", ["Authorization", "X-API-Key"])
async def test_a_key_is_taken_from_either_header(guarded: httpx.AsyncClient, header: str) -> None:
    value = f"bearer {ADMIN_KEY}" if header == "Authorization" else ADMIN_KEY
    assert (await guarded.get("/v1/bots", headers={header: value})).status_code == 200
    assert (await guarded.get("/v1/bots", headers={header: value + "x"})).status_code == 401


async def test_refusals_say_what_to_do_in_the_format_of_their_address(guarded: httpx.AsyncClient) -> None:
    own = await guarded.get("/v1/bots")
    assert own.headers["www-authenticate"].startswith("Bearer")
    assert own.json()["type"] == "urn:godel-serve:unauthenticated"
    assert "Authorization: Bearer" in own.json()["detail"]
    other = await guarded.get("/v1/models")
    assert (other.status_code, other.json()["error"]["type"]) == (401, "authentication_error")
    token = (await make(guarded, scope="chat"))["token"]
    assert "scope edit" in (await guarded.get("/v1/bots/cricket", headers=bearer(token))).json()["detail"]


async def test_a_token_is_shown_once_and_kept_nowhere(guarded: httpx.AsyncClient, store: MemoryStore) -> None:
    made = await make(guarded, scope="chat", name="site", bots=["cricket"], limits={"requests_per_minute": 5})
    secret = made["token"].split("_", 2)[2]
    shown = (await guarded.get(f"/v1/keys/{made['key_id']}", headers=bearer(ADMIN_KEY))).json()
    assert shown == {name: value for name, value in made.items() if name != "token"}
    listed = await guarded.get("/v1/keys", headers=bearer(ADMIN_KEY))
    assert [key["name"] for key in listed.json()["keys"]] == ["site"]
    key = await store.get_key(made["key_id"])
    assert secret not in listed.text + repr(key) + key.digest


async def test_a_rotated_key_and_its_heir_both_work_until_the_overlap_ends(guarded: httpx.AsyncClient) -> None:
    old = await make(guarded, scope="chat", bots=["cricket"], name="site")
    turned = await guarded.post(
        f"/v1/keys/{old['key_id']}/rotate", json={"overlap_seconds": 60}, headers=bearer(ADMIN_KEY)
    )
    new = turned.json()
    assert turned.status_code == 201
    assert (new["scope"], new["bots"], new["name"], new["expires_at"]) == ("chat", ["cricket"], "site", None)
    for token in (old["token"], new["token"]):
        assert (await guarded.get("/v1/models", headers=bearer(token))).status_code == 200
    again = await guarded.post(
        f"/v1/keys/{new['key_id']}/rotate", json={"overlap_seconds": 0}, headers=bearer(ADMIN_KEY)
    )
    assert (await guarded.get("/v1/models", headers=bearer(new["token"]))).status_code == 401
    assert (await guarded.get("/v1/models", headers=bearer(again.json()["token"]))).status_code == 200
    over = await guarded.post(f"/v1/keys/{new['key_id']}/rotate", json={}, headers=bearer(ADMIN_KEY))
    assert over.status_code == 404


async def test_an_heir_lives_as_long_as_the_key_was_to_live_however_often_that_is_rotated(
    guarded: httpx.AsyncClient,
) -> None:
    for expires_at in (None, "9999-12-31T00:00:00Z"):
        key = await make(guarded, scope="chat", expires_at=expires_at)
        heirs = []
        for overlap in (3600, 7200):
            turned = await guarded.post(
                f"/v1/keys/{key['key_id']}/rotate", json={"overlap_seconds": overlap}, headers=bearer(ADMIN_KEY)
            )
            heirs.append(turned.raise_for_status().json()["expires_at"])
        assert heirs == [None, None] if expires_at is None else all(heir.startswith("9999") for heir in heirs)
        old = (await guarded.get(f"/v1/keys/{key['key_id']}", headers=bearer(ADMIN_KEY))).json()
        left = datetime.fromisoformat(old["expires_at"]) - datetime.now(UTC)
        assert left.total_seconds() <= 3600, "the first rotation has set the end"


@pytest.mark.parametrize("path", ["/v1/keys?after=%00", "/v1/keys/%00", "/v1/bots?after=%00"])
async def test_what_no_database_holds_cannot_be_asked_for(guarded: httpx.AsyncClient, path: str) -> None:
    assert (await guarded.get(path, headers=bearer(ADMIN_KEY))).status_code == 422


async def test_use_is_noted_now_and_then(guarded: httpx.AsyncClient, store: MemoryStore) -> None:
    made = await make(guarded, scope="chat")
    assert made["last_used_at"] is None
    await guarded.get("/v1/models", headers=bearer(made["token"]))
    first = (await store.get_key(made["key_id"])).last_used_at
    await guarded.get("/v1/models", headers=bearer(made["token"]))
    assert (await store.get_key(made["key_id"])).last_used_at == first is not None


async def test_a_store_that_cannot_be_written_keeps_nobody_out(
    guarded: httpx.AsyncClient, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, tried = await make(guarded, scope="chat"), []

    async def locked(*arguments: object) -> None:
        tried.append(arguments)
        raise StoreUnavailable("the database is locked")

    monkeypatch.setattr(store, "touch_key", locked)
    for _ in range(3):
        assert (await guarded.get("/v1/models", headers=bearer(made["token"]))).status_code == 200
    assert len(tried) == 1, "each try may wait for a lock"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({}, "scope"),
        ({"scope": "root"}, "scope"),
        ({"scope": "chat", "bots": []}, "bots"),
        ({"scope": "chat", "bots": ["../x"]}, "bots"),
        ({"scope": "admin", "bots": ["cricket"]}, "bots"),
        ({"scope": "chat", "limits": {"words": 1}}, "limits.words"),
        ({"scope": "chat", "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"scope": "chat", "expires_at": "2099-01-01T00:00:00"}, "expires_at"),
        ({"scope": "chat", "expires_at": "9999-12-31T23:59:59-05:00"}, "expires_at"),
        ({"scope": "chat", "name": "\0"}, "name"),
    ],
)
async def test_a_key_that_cannot_be_is_refused_by_name(
    guarded: httpx.AsyncClient, fields: dict[str, Any], named: str
) -> None:
    response = await guarded.post("/v1/keys", json=fields, headers=bearer(ADMIN_KEY))
    assert response.status_code == 422
    assert list(response.json()["problems"]) == [named]


async def test_openapi_says_which_operations_want_a_key(guarded: httpx.AsyncClient) -> None:
    document = (await guarded.get("/openapi.json")).json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            open_to_all = NEEDS[f"{method.upper()} {path}"] is None
            assert ("security" not in operation) == open_to_all
            assert ({"401", "403"} <= operation["responses"].keys()) != open_to_all
    assert set(document["components"]["securitySchemes"]) == {"bearer", "key"}


async def test_without_keys_none_is_made(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/keys", json={"scope": "chat"})
    assert response.status_code == 409
    assert "GODEL_ADMIN_KEY" in response.json()["detail"]


async def test_keys_are_never_silently_ignored(settings: Settings, model: EchoInference, store: MemoryStore) -> None:
    await Keys(store, ADMIN_KEY, lambda: datetime.now(UTC)).issue(name="", scope="chat", by=ADMIN)
    app = create_app(settings, store=store, inference=model, count_tokens=count_words)
    with pytest.raises(Misconfigured, match="GODEL_ADMIN_KEY"):
        async with app.router.lifespan_context(app):
            pass


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "127.0.0.1:8000"}, 200),
        ({"Host": "localhost"}, 200),
        ({"Host": "bots.localhost:80"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "localhost.evil.example"}, 403),
        ({"Host": "10.0.0.1"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
    ],
)
async def test_without_keys_pages_of_other_sites_are_kept_out(
    client: httpx.AsyncClient, headers: dict[str, str], status: int
) -> None:
    response = await client.get("/cricket/context/x", headers=headers)
    assert response.status_code == status
    assert (await client.get("/healthz", headers=headers)).status_code == 200


async def test_with_keys_any_host_may_be_named(guarded: httpx.AsyncClient) -> None:
    headers = {"Host": "bots.example", "Sec-Fetch-Site": "cross-site"} | bearer(ADMIN_KEY)
    assert (await guarded.get("/v1/bots", headers=headers)).status_code == 200


@pytest.mark.parametrize("guard", [False, True])
async def test_a_route_that_nobody_ruled_on_is_refused(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, guard: bool
) -> None:
    router = APIRouter()
    router.add_api_route("/v1/new" if not guard else "/v1/model", lambda: None)
    monkeypatch.setattr(composition, "ROUTERS", (*composition.ROUTERS, router))
    with pytest.raises(Misconfigured, match="may call GET /v1"):
        create_app(settings)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.1", "gateway.example"])  # noqa: S104 - refused
def test_without_keys_no_other_address_can_be_set(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("GODEL_HOST", host)
    with pytest.raises(ValidationError, match="GODEL_ADMIN_KEY"):
        Settings()
    monkeypatch.setenv("GODEL_ADMIN_KEY", ADMIN_KEY)
    assert Settings().host == host
    monkeypatch.setenv("GODEL_ADMIN_KEY", f" {ADMIN_KEY}\n")
    kept = Settings().admin_key
    assert kept is not None
    assert kept.get_secret_value() == ADMIN_KEY
    monkeypatch.setenv("GODEL_ADMIN_KEY", "pässword-of-many-letters")
    with pytest.raises(ValidationError, match="printable ASCII"):
        Settings()
    monkeypatch.setenv("GODEL_ADMIN_KEY", "short")
    with pytest.raises(ValidationError, match="16") as failure:
        Settings()
    assert "short" not in json.dumps([error["msg"] for error in failure.value.errors()])
