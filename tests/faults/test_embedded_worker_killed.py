"""The worker of the embedded model is killed under load: the answers after it are those before it."""

import os
import signal
import threading
import time
from collections.abc import Callable

import httpx
import pytest

from launcher.stack import Stack
from tests.faults.report import Outcome, Report

pytestmark = pytest.mark.e2e

BODY = {"message": "What is blue?", "parameters": {"do_sample": False, "min_length": 60, "max_length": 60}}


def until(claim: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.05)


def worker_pid(stack: Stack) -> int:
    (worker,) = stack.torchserve.manage("GET", "/models/godel")[0]["workers"]
    return int(worker["pid"])


def test_with_the_embedded_model_a_killed_worker_means_503_and_then_the_same_answers_again(
    stack: Stack, report: Report
) -> None:
    with httpx.Client(base_url=stack.gateway_url, timeout=60) as http:
        http.put("/v1/bots/faults", json={"knowledge": "The sea is blue."}).raise_for_status()
        expected = http.post("/v1/bots/faults/chat", json=BODY).raise_for_status().json()["response"]
        replies: list[tuple[float, httpx.Response]] = []
        stopping = threading.Event()

        def load() -> None:
            with httpx.Client(base_url=stack.gateway_url, timeout=60) as client:
                while not stopping.is_set():
                    reply = client.post("/v1/bots/faults/chat", json=BODY)
                    replies.append((time.monotonic(), reply))

        clients = [threading.Thread(target=load) for _ in range(4)]
        for client in clients:
            client.start()
        try:
            until(lambda: len(replies) >= 4)
            killed = worker_pid(stack)
            since = time.monotonic()
            os.kill(killed, signal.SIGKILL)
            until(lambda: any(reply.status_code == 503 for _, reply in replies))
            until(lambda: stack.torchserve.worker_ready() and worker_pid(stack) != killed)
            served_before = len(replies)
            until(lambda: any(reply.status_code == 200 for _, reply in replies[served_before:]))
        finally:
            stopping.set()
            for client in clients:
                client.join()
        assert {reply.status_code for _, reply in replies} == {200, 503}
        assert all(int(reply.headers["retry-after"]) > 0 for _, reply in replies if reply.status_code == 503)
        assert {reply.json()["response"] for _, reply in replies if reply.status_code == 200} == {expected}
        assert http.get("/readyz").status_code == 200
    seen = {str(status): sum(reply.status_code == status for _, reply in replies) for status in (200, 503)}
    recovered = min(end for end, reply in replies[served_before:] if reply.status_code == 200) - since
    report.add("worker killed, embedded model", Outcome(seen=seen, recovered=recovered, promised=1))
