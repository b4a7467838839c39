"""Deployments over HTTP and from a terminal: checked when added, followed by every gateway, judged by metrics."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway import deployment_metrics, rollout
from gateway.app import create_app
from gateway.command_line import main
from gateway.deployments import Address
from gateway.errors import ModelDown, ModelTimeout
from gateway.inference import EchoInference, Inference, ModelDescription
from gateway.settings import Settings
from gateway.store.memory import MemoryStore
from gateway.store.sql import SqlStore
from handler.contract.wire import GenerateReply, GenerateRequest
from tests.gateway.conftest import count_words
from tests.gateway.serving import running
from tests.gateway.test_prometheus import values

pytestmark = pytest.mark.anyio

NEW = {"inference_url": "http://new:8080", "management_url": "http://new:8081"}


class Model(EchoInference):
    """An echo that counts as the gateway does, and has a limit."""

    tokens_more = 1
    limit: int | None = 512

    async def generate(self, request: GenerateRequest) -> GenerateReply:
        reply = await super().generate(request)
        return replace(reply, prompt_tokens=len(request.prompt.split()) + self.tokens_more)

    async def describe(self) -> ModelDescription:
        return replace(await super().describe(), max_prompt_tokens=self.limit)


@pytest.fixture
def models() -> dict[str, Model]:
    return {"http://127.0.0.1:8080": Model(), "http://new:8080": Model()}


def opener(models: dict[str, Model]) -> Any:
    def open_model(where: Address) -> AbstractAsyncContextManager[Inference]:
        return nullcontext(models.get(where.inference_url) or Model(failure=ModelDown("nobody listens", reached=False)))

    return open_model


@asynccontextmanager
async def gateway(settings: Settings, store: Any, models: dict[str, Model]) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(settings, store=store, inference=opener(models), count_tokens=count_words)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client,
    ):
        await client.put("/v1/bots/b", json={"knowledge": "k"})
        yield client


@pytest.fixture
async def http(settings: Settings, models: dict[str, Model]) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway(settings, MemoryStore(), models) as client:
        yield client


async def add(http: httpx.AsyncClient, name: str = "2.0", *instances: dict[str, str]) -> httpx.Response:
    return await http.put(f"/v1/deployments/{name}", json={"instances": list(instances or [NEW])})


async def weigh(http: httpx.AsyncClient, weight: int, name: str = "2.0") -> httpx.Response:
    return await http.put(f"/v1/deployments/{name}/weight", json={"weight": weight})


async def answering(http: httpx.AsyncClient) -> str | None:
    reply = await http.post("/v1/bots/b/chat", json={"message": "one"})
    found: str | None = reply.raise_for_status().json()["deployment"]
    return found


def weights(response: httpx.Response) -> dict[str, int]:
    return {each["name"]: each["weight"] for each in response.raise_for_status().json()["deployments"]}


async def test_at_first_the_settings_own_server_answers_all(http: httpx.AsyncClient) -> None:
    shown = (await http.get("/v1/deployments")).json()["deployments"]
    own = {"inference_url": "http://127.0.0.1:8080", "management_url": "http://127.0.0.1:8081"}
    instances = [own | {"live": True, "in_flight": 0}]
    assert shown == [{"name": "default", "weight": 100, "instances": instances}]
    assert await answering(http) == "default"


async def test_a_version_is_added_tried_promoted_taken_back_and_removed(http: httpx.AsyncClient) -> None:
    added = (await add(http)).raise_for_status().json()
    assert (added["weight"], added["instances"]) == (0, [NEW | {"live": True, "in_flight": 0}])
    assert weights(await weigh(http, 20)) == {"2.0": 20, "default": 80}
    assert weights(await weigh(http, 100)) == {"2.0": 100, "default": 0}
    assert await answering(http) == "2.0"
    assert weights(await http.post("/v1/deployments/rollback")) == {"2.0": 20, "default": 80}
    assert weights(await http.post("/v1/deployments/rollback")) == {"2.0": 0, "default": 100}
    assert await answering(http) == "default"
    assert (await http.delete("/v1/deployments/2.0")).status_code == 204
    assert (await http.get("/v1/deployments/2.0")).status_code == 404


async def test_a_streamed_answer_says_its_version_too(http: httpx.AsyncClient) -> None:
    reply = await http.post("/v1/bots/b/chat", json={"message": "one", "stream": True})
    assert '"deployment":"default"' in reply.text


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda model: setattr(model, "failure", ModelDown("no worker")), "does not answer: no worker"),
        (lambda model: setattr(model, "failure", ModelTimeout("late")), "does not answer: late"),
        (lambda model: setattr(model, "limit", 63), "reads prompts of 63 tokens; this gateway writes up to 64"),
        (lambda model: setattr(model, "tokens_more", 2), "another tokenizer"),
    ],
    ids=["down", "late", "short prompts", "other tokenizer"],
)
async def test_a_server_that_would_not_do_is_refused_with_the_reason(
    http: httpx.AsyncClient, models: dict[str, Model], spoil: Any, reason: str
) -> None:
    spoil(models["http://new:8080"])
    refused = await add(http)
    assert (refused.status_code, refused.json()["type"]) == (422, "urn:godel-serve:deployment-unfit")
    assert reason in refused.json()["problems"]["instances.0"]
    assert weights(await http.get("/v1/deployments")) == {"default": 100}


async def test_a_server_that_does_not_answer_at_all_is_not_waited_for(
    http: httpx.AsyncClient, models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout, "CHECK_SECONDS", 0.05)
    models["http://new:8080"].gate = asyncio.Event()
    assert "does not answer within" in (await add(http)).json()["detail"]


async def test_one_bad_server_of_several_is_named(http: httpx.AsyncClient) -> None:
    dead = {"inference_url": "http://dead:8080", "management_url": "http://dead:8081"}
    refused = await add(http, "2.0", NEW, dead)
    assert list(refused.json()["problems"]) == ["instances.1"]


async def test_a_version_that_is_down_gets_no_share_but_a_rollback_asks_nobody(
    http: httpx.AsyncClient, models: dict[str, Model]
) -> None:
    await add(http)
    await weigh(http, 100)
    models["http://127.0.0.1:8080"].failure = ModelDown("no worker")
    refused = await weigh(http, 50, "default")
    assert (refused.status_code, refused.json()["detail"]) == (422, "default does not answer: no worker")
    assert weights(await http.post("/v1/deployments/rollback")) == {"2.0": 0, "default": 100}


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PUT", "/v1/deployments/2.0", {"instances": []}, 422),
        ("PUT", "/v1/deployments/2.0", {"instances": [{"inference_url": "x", "management_url": "y"}]}, 422),
        ("PUT", "/v1/deployments/x/weight", {"weight": 1}, 404),
        ("PUT", "/v1/deployments/default/weight", {"weight": 101}, 422),
        ("PUT", "/v1/deployments/default/weight", {"weight": 50}, 409),
        ("POST", "/v1/deployments/rollback", None, 409),
        ("DELETE", "/v1/deployments/default", None, 409),
        ("DELETE", "/v1/deployments/x", None, 404),
    ],
)
async def test_what_cannot_be_done_is_refused(
    http: httpx.AsyncClient, method: str, path: str, body: Any, status: int
) -> None:
    refused = await http.request(method, path, json=body)
    assert (refused.status_code, refused.headers["content-type"]) == (status, "application/problem+json")


async def test_another_gateway_follows_by_itself(
    settings: Settings, models: dict[str, Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout, "FOLLOW_SECONDS", 0.02)
    url = f"sqlite+aiosqlite:///{tmp_path}/shared.db"
    async with (
        SqlStore.open(url) as one,
        SqlStore.open(url) as two,
        gateway(settings, one, models) as first,
        gateway(settings, two, models) as second,
    ):
        await add(first)
        await weigh(first, 100)
        async with asyncio.timeout(10):
            while await answering(second) != "2.0":  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.02)


async def test_a_gateway_that_starts_routes_as_the_store_says(settings: Settings, models: dict[str, Model]) -> None:
    store = MemoryStore()
    async with gateway(settings, store, models) as http:
        await add(http)
        await weigh(http, 100)
    async with gateway(settings, store, models) as http:
        assert await answering(http) == "2.0"


async def test_changes_by_two_gateways_at_once_both_hold(settings: Settings, models: dict[str, Model]) -> None:
    store = MemoryStore()
    async with gateway(settings, store, models) as first, gateway(settings, store, models) as second:
        added = await asyncio.gather(add(first, "2.0"), add(second, "3.0"))
        assert [each.status_code for each in added] == [200, 200]
        assert weights(await first.get("/v1/deployments")) == {"2.0": 0, "3.0": 0, "default": 100}


async def test_versions_are_measured_apart(http: httpx.AsyncClient, models: dict[str, Model]) -> None:
    await answering(http)
    await add(http)
    await weigh(http, 100)
    await answering(http)
    models["http://new:8080"].failure = ModelDown("the worker died")
    await http.post("/v1/bots/b/chat", json={"message": "one"})
    counted = await values(http)
    assert counted['godel_deployment_requests_total{deployment="default"}'] == 1
    assert counted['godel_deployment_requests_total{deployment="2.0"}'] == 2
    assert counted['godel_deployment_failures_total{cause="ModelDown",deployment="2.0"}'] == 1
    assert counted['godel_deployment_seconds_count{deployment="2.0"}'] == 1
    assert counted['godel_deployment_weight{deployment="2.0"}'] == 100
    assert counted['godel_deployment_instances{deployment="2.0",state="down"}'] == 1
    assert counted['godel_deployment_instances{deployment="default",state="live"}'] == 1


async def test_deployments_beyond_the_first_are_counted_together(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployment_metrics, "MAX_DEPLOYMENT_LABELS", 1)
    await answering(http)
    await add(http)
    await weigh(http, 100)
    await answering(http)
    assert (await values(http))['godel_deployment_requests_total{deployment="(others)"}'] == 1


async def test_the_model_route_lists_all_versions_without_addresses(http: httpx.AsyncClient) -> None:
    await add(http)
    await weigh(http, 20)
    described = await http.get("/v1/model")
    assert described.json()["deployments"] == [
        {"name": "default", "weight": 80, "version": "1.0", "instances": 1, "live": 1},
        {"name": "2.0", "weight": 20, "version": "1.0", "instances": 1, "live": 1},
    ]
    assert "http://" not in described.text


@pytest.fixture
def address(settings: Settings, models: dict[str, Model]) -> Iterator[str]:
    app = create_app(settings, store=MemoryStore(), inference=opener(models), count_tokens=count_words)
    with running(app) as url:
        yield url


def test_godel_deploy_from_beginning_to_end(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    def godel(*command: str, status: int = 0) -> str:
        assert main(["deploy", *command], {"GODEL_URL": address}) == status
        captured = capsys.readouterr()
        return captured.err if status else captured.out

    assert godel("add", "2.0", "http://new:8080/") == "2.0: servers 1, share 0 %\n"
    head, *rows = godel("weight", "2.0", "20").splitlines()
    assert head.split() == ["VERSION", "SHARE", "SERVER", "STATE"]
    assert [row.split() for row in rows] == [
        ["2.0", "20", "%", "http://new:8080", "live"],
        ["default", "80", "%", "http://127.0.0.1:8080", "live"],
    ]
    assert "100 %" in godel("promote", "2.0")
    assert "20 %" in godel("rollback")
    assert godel("list").splitlines() == [head, *rows]
    assert "give them to another first" in godel("remove", "2.0", status=1)
    godel("weight", "2.0", "0")
    assert godel("remove", "2.0") == "removed 2.0\n"
    assert "does not answer" in godel("add", "3.0", "http://dead:8080", status=1)
    assert "no address like" in godel("add", "3.0", "http://dead:x", status=1)
    assert godel("add", "default") == "default: servers 1, share 100 %\n"


@pytest.mark.parametrize(
    ("server", "options", "management"),
    [
        ("http://10.0.0.2:8080", [], "http://10.0.0.2:8081"),
        ("http://10.0.0.2:8080", ["--management-port", "9000"], "http://10.0.0.2:9000"),
        ("https://models", [], "https://models:444"),
        ("http://[fd00::2]:8080", [], "http://[fd00::2]:8081"),
    ],
)
def test_the_management_address_is_found_beside_the_inference_address(
    monkeypatch: pytest.MonkeyPatch, server: str, options: list[str], management: str
) -> None:
    sent: list[Any] = []

    def call(_: Any, method: str, *path: str, json: Any) -> Any:
        sent.append((method, path, json))
        return {"name": "2.0", "instances": [], "weight": 0}

    monkeypatch.setattr("gateway.client.GatewayClient.call", call)
    assert main(["deploy", "add", "2.0", server, *options], {}) == 0
    instance = {"inference_url": server, "management_url": management}
    assert sent == [("PUT", ("deployments", "2.0"), {"instances": [instance]})]
