"""The gateway as a process: it starts, serves, drains, and fails in one line."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.gateway.fake_torchserve import FakeTorchServe
from tests.gateway.serving import ROOT, GatewayProcess, running

SECRET = "xylophone"  # noqa: S105 - what a user wrote

Start = Callable[..., GatewayProcess]


@pytest.fixture
def served() -> FakeTorchServe:
    return FakeTorchServe()


@pytest.fixture
def start(served: FakeTorchServe, tokenizer_file: Path, tmp_path: Path) -> Iterator[Start]:
    """Start gateways in front of the fake; end them with the test."""
    started: list[GatewayProcess] = []

    with running(served) as torchserve:

        def begin(**environment: str) -> GatewayProcess:
            own = {
                "GODEL_INFERENCE_URL": torchserve,
                "GODEL_MANAGEMENT_URL": torchserve,
                "GODEL_TOKENIZER": str(tokenizer_file),
                "GODEL_DATABASE_URL": f"sqlite:///{tmp_path}/bots.db",
            }
            started.append(GatewayProcess(own | environment))
            return started[-1]

        yield begin
        for gateway in started:
            gateway.close()


def test_a_message_goes_all_the_way_and_comes_back(start: Start, served: FakeTorchServe) -> None:
    gateway = start()
    with httpx.Client(base_url=gateway.url) as client:
        assert client.get("/readyz").json() == {"status": "ready"}
        client.get("/cricket/context/Eleven%20play.").raise_for_status()
        answer = client.get("/cricket/chat/How%20many%3F", headers={"X-Request-ID": "r-1"}).json()
        assert answer["response"].endswith("[CONTEXT] How many? [KNOWLEDGE] Eleven play.")
        assert served.seen[-1].request_id == "r-1"
        assert client.get("/v1/model").json()["engine"] == "torch"


def test_after_sigterm_requests_in_flight_finish_and_new_connections_are_refused(
    start: Start, served: FakeTorchServe
) -> None:
    served.gate = threading.Event()
    gateway = start(GODEL_SHUTDOWN_GRACE="15")
    with ThreadPoolExecutor() as pool:
        httpx.get(f"{gateway.url}/bot/context/k").raise_for_status()
        in_flight = pool.submit(httpx.get, f"{gateway.url}/bot/chat/x", timeout=15)
        assert served.arrived.wait(10)
        gateway.terminate()
        gateway.wait_for("Waiting for connections to close")
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{gateway.url}/healthz")
        served.gate.set()
        assert in_flight.result().status_code == 200
    assert gateway.wait() == 0
    assert "stopped" in gateway.log


def test_requests_that_outlast_the_grace_are_told_to_come_back(start: Start, served: FakeTorchServe) -> None:
    served.gate = threading.Event()
    gateway = start(GODEL_SHUTDOWN_GRACE="1")
    with ThreadPoolExecutor() as pool:
        httpx.get(f"{gateway.url}/bot/context/k").raise_for_status()
        in_flight = pool.submit(httpx.get, f"{gateway.url}/bot/chat/x", timeout=15)
        assert served.arrived.wait(10)
        gateway.terminate()
        assert gateway.wait() == 0
        assert served.left.wait(5)
        served.gate.set()
        reply = in_flight.result()
    assert reply.status_code == 503
    assert int(reply.headers["retry-after"]) > 0
    assert "Traceback" not in gateway.log


def test_a_client_that_goes_away_frees_the_model(start: Start, served: FakeTorchServe) -> None:
    served.gate = threading.Event()
    gateway = start()
    httpx.get(f"{gateway.url}/bot/context/k").raise_for_status()
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{gateway.url}/v1/bots/bot/chat", json={"message": "x"}, timeout=0.5)
    assert served.left.wait(5)
    served.gate.set()
    gateway.wait_for(r"POST /v1/bots/\{bot_id\}/chat 499")


def test_the_head_and_the_body_of_an_answer_are_sent_as_one(start: Start) -> None:
    with socket.create_connection(("127.0.0.1", httpx.URL(start().url).port or 0)) as raw:
        for _ in range(20):  # of two sent after each other one read may take both
            raw.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            head, _, body = raw.recv(65_536).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            assert json.loads(body)["status"] == "ok"


@pytest.mark.parametrize("style", ["text", "json"])
def test_every_line_of_a_request_has_its_id_and_none_has_a_word_of_a_user_or_a_key(
    start: Start, served: FakeTorchServe, style: str
) -> None:
    admin = "an admin key for tests"
    gateway = start(GODEL_LOG_LEVEL="debug", GODEL_LOG_FORMAT=style, GODEL_ADMIN_KEY=admin)
    with httpx.Client(base_url=gateway.url, headers={"X-API-Key": admin, "X-Request-ID": "r-77"}) as client:
        token = client.post("/v1/keys", json={"scope": "edit", "name": SECRET}).json()["token"]
        client.headers["X-API-Key"] = token
        client.get(f"/bot/context/{SECRET}").raise_for_status()
        client.get(f"/bot/chat/{SECRET}?{SECRET}").raise_for_status()
        client.put("/v1/bots/bot", json={"knowledge": SECRET}).raise_for_status()
        client.put("/v1/bots/bot", json={SECRET: SECRET})
        client.post("/v1/bots/bot/chat", content=SECRET, headers={"content-type": "application/json"})
        client.get(f"/{SECRET}/{SECRET}")
        served.status = 500
        client.get(f"/bot/chat/{SECRET}")
        client.get("/v1/bots", headers={"X-API-Key": f"{token}{SECRET}"})
        client.delete(f"/v1/keys/{token.split('_')[1]}", headers={"X-API-Key": admin})
        with socket.create_connection(("127.0.0.1", httpx.URL(gateway.url).port or 0)) as raw:
            raw.sendall(f"GET /bot/chat/{SECRET}\x01 HTTP/1.1\r\n{SECRET}\r\n\r\n".encode())
            assert b"400" in raw.recv(1000)
    gateway.terminate()
    gateway.wait()
    lines = gateway.log.splitlines()
    if style == "json":
        records = [json.loads(line) for line in lines]
        requests = [record for record in records if record["logger"] == "gateway.request"]
        assert all(record["request_id"] == "r-77" for record in requests)
        assert {record["status"] for record in requests} == {200, 201, 204, 401, 404, 422, 400, 503}
        assert {record["caller"] for record in requests} == {"admin", "nobody", token.split("_")[1]}
        assert all(record["time"] and record["level"] for record in records)
        made = [record["request_id"] for record in records if record["logger"] == "gateway.keys"]
        assert made == ["r-77", "r-77"]
    else:
        assert sum(line.endswith(" request_id=r-77") for line in lines) == 12
    for secret in (SECRET, admin, token.split("_", 2)[2]):
        assert secret not in gateway.log


def test_a_dead_model_is_503_and_then_answers_again(start: Start, served: FakeTorchServe) -> None:
    gateway = start()
    with httpx.Client(base_url=gateway.url) as client:
        client.get("/bot/context/k").raise_for_status()
        served.cut = True
        dead = client.get("/bot/chat/x")
        assert (dead.status_code, dead.headers["retry-after"]) == (503, "3")
        served.cut = False
        assert client.get("/bot/chat/x").status_code == 200


def run(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway"],
        cwd=ROOT,
        env={"PATH": "", **environment},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def test_a_busy_port_is_one_clear_line(tokenizer_file: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = run(GODEL_PORT=port, GODEL_TOKENIZER=str(tokenizer_file), GODEL_DATABASE_URL=f"sqlite:///{tmp_path}/x")
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert port in ended.stderr
    assert "GODEL_PORT" in ended.stderr


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("GODEL_PORT", "http", "GODEL_PORT"),
        ("GODEL_TOKENIZER", "nowhere.mar", "nowhere.mar"),
        ("GODEL_HOST", "host.invalid", "GODEL_ADMIN_KEY"),
        ("GODEL_HOST", "0.0.0.0", "GODEL_ADMIN_KEY"),  # noqa: S104 - refused
        ("GODEL_HOST", "nowhere.localhost.", "GODEL_HOST"),
        ("GODEL_ADMIN_KEY", "short", "GODEL_ADMIN_KEY: must have at least 16 characters"),
        ("GODEL_REDIS_URL", "localhost", "GODEL_REDIS_URL: must be an address like redis://"),
        ("GODEL_TOKENIZER", "README.md", "README.md"),
        ("GODEL_DATABASE_URL", "mysql://x/y", "mysql cannot be used; give sqlite:///file or postgresql"),
        ("GODEL_DATABASE_URL", "sqlite:////dev/null/x.db", "database"),
        ("GODEL_DATABASE_URL", "sqlite:////", "cannot be opened"),
    ],
)
def test_what_cannot_start_says_why_in_one_line(tokenizer_file: Path, name: str, value: str, named: str) -> None:
    ended = run(**{"GODEL_PORT": "0", "GODEL_TOKENIZER": str(tokenizer_file), name: value})
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert named in ended.stderr


def test_a_variable_that_is_no_setting_is_told(start: Start) -> None:
    gateway = start(GODEL_PROMPT_BUDGTE="64", GODEL_API_KEY="of a client")
    assert "GODEL_PROMPT_BUDGTE is no setting and changes nothing; did you mean GODEL_PROMPT_BUDGET?" in gateway.log
    assert "GODEL_API_KEY" not in gateway.log


def test_importing_the_gateway_reads_no_environment_and_needs_no_torch() -> None:
    program = (
        "import sys, gateway.server, gateway.store.sql, gateway.torchserve, gateway.tokens\n"
        "print([name for name in ('torch', 'transformers', 'numpy', 'ts') if name in sys.modules])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={"GODEL_PORT": "no number"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout == "[]\n"


def test_with_a_key_other_machines_are_served_and_without_one_the_log_says_so(start: Start) -> None:
    assert "no key is asked for" in start().log
    key = "an admin key for tests"
    open_to_all = start(GODEL_HOST="0.0.0.0", GODEL_ADMIN_KEY=key)  # noqa: S104 - the claim
    assert "no key is asked for" not in open_to_all.log
    address = open_to_all.url.replace("0.0.0.0", "127.0.0.1")  # noqa: S104
    assert httpx.get(f"{address}/v1/bots").status_code == 401
    assert httpx.get(f"{address}/v1/bots", headers={"X-API-Key": key}).status_code == 200
    assert key not in open_to_all.log
