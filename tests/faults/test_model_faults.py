"""TorchServe is slow, silent, gone, sends rubbish or cuts its answers: clean errors by the deadline, then service."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import httpx
import pytest

from handler.contract.wire import GenerateRequest
from tests.faults.load import Load
from tests.faults.proxy import Mode, Proxy
from tests.faults.report import Report
from tests.gateway.fake_torchserve import FakeTorchServe, echo
from tests.gateway.serving import GatewayProcess

TIMEOUT = 2
"""Seconds that the gateway gives an answer here."""

SETTINGS = {"GODEL_REQUEST_TIMEOUT": str(TIMEOUT)}

Reply = Callable[[GenerateRequest], bytes]

LATENESS = 2
"""What the gateway waits beyond that for an answer that is on its way."""


@pytest.fixture(autouse=True)
def well_again(shared_proxy: Proxy, shared_model: FakeTorchServe) -> Iterator[None]:
    """Whatever becomes of a test, the next one finds TorchServe well."""
    yield
    shared_proxy.set("well")
    shared_model.reply = echo


@pytest.mark.parametrize(
    ("mode", "status"), [("slow", "504"), ("silent", "504"), ("away", "503"), ("rubbish", "503"), ("cut", "503")]
)
def test_whatever_torchserve_does_clients_get_a_clean_error_in_time_and_then_answers(
    gateway: GatewayProcess, shared_proxy: Proxy, report: Report, mode: Mode, status: str
) -> None:
    failures = {status, f"200, then problem {status}"}
    with Load(gateway.url) as load:
        since = time.monotonic()
        shared_proxy.set(mode)
        load.until(lambda: sum(load.seen(since)[failure] for failure in failures) >= 4, 30)
        assert httpx.get(f"{gateway.url}/livez", timeout=2).status_code == 200
        assert set(load.seen(since)) <= failures | {"200"}
        shared_proxy.set("well")
        mended = time.monotonic()
        recovered = load.until_back(mended, failing=False)
    assert load.slowest() < TIMEOUT + LATENESS + 1
    report.add(f"TorchServe {mode}", load.outcome(since, recovered))


@pytest.mark.parametrize(
    ("fault", "reply"),
    [
        ("sends HTML", lambda _: b"<html>not JSON</html>"),
        ("answers another's request", lambda request: echo(replace(request, request_id="another's"))),
    ],
)
def test_an_answer_that_is_none_or_another_s_is_a_502_and_nobody_gets_to_see_it(
    gateway: GatewayProcess,
    shared_model: FakeTorchServe,
    report: Report,
    fault: str,
    reply: Callable[[GenerateRequest], bytes],
) -> None:
    with Load(gateway.url) as load:
        since = time.monotonic()
        shared_model.reply = reply
        load.until(lambda: load.seen(since)["502"] >= 4, 30)
        assert set(load.seen(since)) <= {"200", "502", "200, then problem 502"}
        shared_model.reply = echo
        recovered = load.until_back(time.monotonic(), failing=False)
    report.add(f"TorchServe {fault}", load.outcome(since, recovered))
