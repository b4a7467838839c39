"""A worker killed under load: 503 with Retry-After meanwhile, and service again without a hand."""

import os
import signal
import threading
import time
from collections.abc import Callable

import httpx

from launcher.serve import Stack

BODY = {"message": "What is blue?", "parameters": {"do_sample": False, "min_length": 60, "max_length": 60}}


def until(claim: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.05)


def worker_pid(stack: Stack) -> int:
    (worker,) = stack.torchserve.manage("GET", "/models/godel")[0]["workers"]
    return int(worker["pid"])


def test_a_killed_worker_means_503_with_retry_after_and_then_service_again(stack: Stack, http: httpx.Client) -> None:
    http.put("/v1/bots/faults", json={"knowledge": "The sea is blue."}).raise_for_status()
    expected = http.post("/v1/bots/faults/chat", json=BODY).raise_for_status().json()["response"]
    replies: list[httpx.Response] = []
    stopping = threading.Event()

    def load() -> None:
        with httpx.Client(base_url=stack.gateway_url, timeout=60) as client:
            while not stopping.is_set():
                replies.append(client.post("/v1/bots/faults/chat", json=BODY))

    clients = [threading.Thread(target=load) for _ in range(4)]
    for client in clients:
        client.start()
    try:
        until(lambda: len(replies) >= 4)
        killed = worker_pid(stack)
        os.kill(killed, signal.SIGKILL)
        until(lambda: any(reply.status_code == 503 for reply in replies))
        until(lambda: stack.torchserve.worker_ready() and worker_pid(stack) != killed)
        served_before = len(replies)
        until(lambda: any(reply.status_code == 200 for reply in replies[served_before:]))
    finally:
        stopping.set()
        for client in clients:
            client.join()
    assert {reply.status_code for reply in replies} == {200, 503}
    assert all(int(reply.headers["retry-after"]) > 0 for reply in replies if reply.status_code == 503)
    assert {reply.json()["response"] for reply in replies if reply.status_code == 200} == {expected}
    assert http.get("/readyz").status_code == 200
