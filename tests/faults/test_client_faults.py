"""Clients that send a byte at a time, never read, come in masses or leave 1,000 times: the others are served."""

import contextlib
import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import psutil
import pytest

from tests.faults.conftest import Start
from tests.faults.load import Load
from tests.faults.report import Report
from tests.gateway.serving import GatewayProcess

RECEIVE, SEND = 2, 3
"""Seconds that a client here gets to send a head, and to take something of what it is sent."""

MARGIN = 24
"""Files that may stay open: the pools' connections to database and model, which have bounds of their own."""

MOST_THREADS = 60
"""anyio's pool of 40, those of the database, and a few."""

SETTINGS = {"GODEL_RECEIVE_TIMEOUT": str(RECEIVE), "GODEL_SEND_TIMEOUT": str(SEND)}

SLOW = 12
DEAF = 12


def address(gateway: GatewayProcess) -> tuple[str, int]:
    url = httpx.URL(gateway.url)
    return url.host, url.port or 0


def connected(gateway: GatewayProcess, ports: set[int]) -> set[int]:
    """Return of which of these ports of clients the gateway still holds the other end."""
    found = psutil.Process(gateway.pid).net_connections("tcp")
    return ports & {each.raddr.port for each in found if each.raddr and each.laddr.port == address(gateway)[1]}


def in_flight(gateway: GatewayProcess) -> int:
    metrics = httpx.get(f"{gateway.url}/metrics", timeout=30).text.splitlines()
    return sum(
        int(float(line.split()[1])) for line in metrics if line.startswith(("godel_in_flight ", "godel_waiting "))
    )


def until(claim: Callable[[], bool], seconds: float) -> float:
    """Return after how many seconds `claim` came true. Raises AssertionError when it did not."""
    start = time.monotonic()
    while not claim():
        assert time.monotonic() - start < seconds, "it never came true"
        time.sleep(0.05)
    return time.monotonic() - start


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: ",
        b"POST /v1/bots/x/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n",
    ],
    ids=["no head", "head", "body"],
)
def test_clients_that_send_a_byte_at_a_time_are_let_go_with_408_and_nobody_else_notices(
    gateway: GatewayProcess, report: Report, head: bytes
) -> None:
    with Load(gateway.url, clients=2) as load, contextlib.ExitStack() as stack:
        since = time.monotonic()
        slow = [stack.enter_context(socket.create_connection(address(gateway))) for _ in range(SLOW)]
        for each in slow:
            each.sendall(head)
        answers: dict[int, bytes] = {}
        while len(answers) < SLOW:
            assert time.monotonic() - since < RECEIVE + 8, "slow clients are still connected"
            time.sleep(0.25)
            for number, each in enumerate(slow):
                if number not in answers:
                    each.setblocking(False)
                    with contextlib.suppress(BlockingIOError):
                        answers[number] = each.recv(4096)
                if number not in answers and head:
                    with contextlib.suppress(OSError):
                        each.send(b"x")
        seconds = time.monotonic() - since
    assert {answer.split(b"\r\n")[0] for answer in answers.values()} == {b"HTTP/1.1 408 Request Timeout"}
    body = json.loads(answers[0].partition(b"\r\n\r\n")[2])
    assert body["type"] == "urn:godel-serve:request-timeout"
    assert set(load.seen(since)) == {"200"}
    seen = load.outcome(since, seconds)
    report.add(f"{SLOW} clients that send a byte at a time", seen)


def test_a_slow_but_steady_upload_is_taken(gateway: GatewayProcess) -> None:
    body = json.dumps({"knowledge": "k" * 5_000}).encode()

    def parts() -> Iterator[bytes]:
        for place in range(0, len(body), 300):
            yield body[place : place + 300]
            time.sleep(0.25)

    headers = {"content-length": str(len(body)), "content-type": "application/json"}
    reply = httpx.put(f"{gateway.url}/v1/bots/slow", content=parts(), headers=headers, timeout=20)
    assert reply.status_code == 201, reply.text


def test_clients_that_never_read_are_let_go_and_nobody_else_notices(gateway: GatewayProcess, report: Report) -> None:
    with httpx.Client(base_url=gateway.url) as http:
        http.put("/v1/bots/long", json={"knowledge": "k " * 400_000}).raise_for_status()
    with Load(gateway.url, clients=2) as load, contextlib.ExitStack() as stack:
        ports: set[int] = set()
        since = time.monotonic()
        for _ in range(DEAF):
            deaf = stack.enter_context(socket.socket())
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            deaf.connect(address(gateway))
            deaf.sendall(b"GET /v1/bots/long HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 20)
            ports.add(deaf.getsockname()[1])
        until(lambda: connected(gateway, ports) == ports, 10)
        seconds = until(lambda: not connected(gateway, ports), SEND * 3 + 15)
    assert set(load.seen(since)) == {"200"}
    report.add(f"{DEAF} clients that never read", load.outcome(since, seconds))


def test_beyond_the_most_connections_new_clients_are_refused_at_once_and_those_inside_are_served(start: Start) -> None:
    gateway = start(GODEL_MAX_CONNECTIONS="8", GODEL_RECEIVE_TIMEOUT="2")
    with httpx.Client(base_url=gateway.url) as inside, contextlib.ExitStack() as stack:
        inside.get("/livez").raise_for_status()
        for _ in range(8):
            stack.enter_context(socket.create_connection(address(gateway)))
        refused = httpx.get(f"{gateway.url}/livez")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert inside.get("/livez").status_code == 200
        until(lambda: httpx.get(f"{gateway.url}/livez").status_code == 200, 10)


def test_a_client_that_leaves_a_thousand_times_leaves_nothing_behind(gateway: GatewayProcess, report: Report) -> None:
    dice = random.Random(7)
    process = psutil.Process(gateway.pid)
    with Load(gateway.url, clients=2) as load:
        with httpx.Client(base_url=gateway.url) as http:
            http.put("/v1/bots/left", json={"knowledge": "k"}).raise_for_status()
            session = http.post("/v1/bots/left/sessions").json()["session_id"]
        files = process.num_fds()
        since = time.monotonic()

        def leave(times: int) -> None:
            for number in range(times):
                body = json.dumps(
                    {"message": f"x {number}", "session_id": session, "stream": bool(number % 2)}
                ).encode()
                head = f"POST /v1/bots/left/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
                request = head.encode() + b"Content-Type: application/json\r\n\r\n" + body
                with socket.create_connection(address(gateway)) as client:
                    client.sendall(request[: dice.randint(0, len(request) * 3)])
                    time.sleep(dice.random() * 0.03)

        leavers = [threading.Thread(target=leave, args=(250,)) for _ in range(4)]
        for each in leavers:
            each.start()
        for each in leavers:
            each.join()
        until(lambda: in_flight(gateway) <= 2, 60)
        seconds = load.until_back(since, failing=False)
    assert set(load.seen(since)) <= {"200", "503"}  # 503: the leavers fill the queue
    until(lambda: in_flight(gateway) == 0, 20)
    until(lambda: process.num_fds() <= files + MARGIN, 20)
    assert process.num_threads() <= MOST_THREADS
    assert "Traceback" not in gateway.log
    assert "garbage collector" not in gateway.log
    report.add("clients that leave 1,000 times", load.outcome(since, seconds))
