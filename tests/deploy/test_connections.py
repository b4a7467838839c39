"""Behind a Service each request takes a connection of its own, so that none follows a pod to its end."""

from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from gateway.settings import Settings
from gateway.torchserve import TorchServeInference
from handler.contract.wire import GenerateRequest
from tests.gateway.fake_torchserve import READY, FakeTorchServe, InProcess
from tests.gateway.serving import running

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(("keep", "connections"), [(True, 1), (False, 3)])
async def test_connections_are_kept_or_not_as_told(keep: bool, connections: int) -> None:
    served, ports = FakeTorchServe(), set[Any]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        ports.add(scope["client"])
        await served(scope, receive, send)

    with running(app, lifespan="off") as url:
        settings = Settings(inference_url=url, management_url=url, keep_connections=keep)
        async with TorchServeInference.open(settings, {}) as inference:
            for _ in range(3):
                await inference.generate(GenerateRequest(prompt="Hello.", request_id="r"))
    assert len(ports) == connections


async def test_the_workers_of_every_server_behind_a_balancer_are_asked_once() -> None:
    served = FakeTorchServe()
    inference = TorchServeInference(
        InProcess(served),
        inference_url="http://inference",
        management_url="http://management",
        model_name="godel",
    )
    for pid in (1, 2, 1, 2, 1, 2):
        served.workers = [READY | {"pid": pid}]
        await inference.ready()
    assert len(served.seen) == 2
