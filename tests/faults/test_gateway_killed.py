"""The gateway is killed in the middle of writes and streams: what was acknowledged is there when it is back."""

import json
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.faults.conftest import Start
from tests.faults.load import Load
from tests.faults.report import Outcome, Report
from tests.gateway.events import parse
from tests.gateway.fake_torchserve import FakeTorchServe
from tests.gateway.postgres import Postgres, running_postgres

KILLS = 2


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with running_postgres() as server:
        yield server


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def database(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def database_url(request: pytest.FixtureRequest, database: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    if database == "PostgreSQL":
        postgres: Postgres = request.getfixturevalue("postgres")
        return postgres.new_url()
    return f"sqlite+aiosqlite:///{tmp_path_factory.mktemp('database')}/godel.db"


def test_a_gateway_killed_in_the_middle_of_writes_loses_none_that_it_acknowledged(
    start: Start, report: Report, database: str
) -> None:
    gateway = start()
    with Load(gateway.url) as load:
        since = time.monotonic()
        recovered = 0.0
        for _ in range(KILLS):
            moment = time.monotonic()
            gateway.kill()
            gateway.wait()
            gateway = start()
            recovered = max(recovered, load.until_back(moment))
    assert set(load.seen(since)) <= {"200", "connection cut", "connection closed", "connection refused"}
    report.add(f"gateway killed {KILLS} times in the middle of writes, {database}", load.outcome(since, recovered))


@pytest.mark.parametrize("database", ["SQLite"], indirect=True)
def test_a_gateway_killed_in_the_middle_of_a_stream_cuts_it_visibly_and_the_session_goes_on(
    start: Start, served: FakeTorchServe, report: Report
) -> None:
    served.pause = threading.Event()
    gateway = start()
    with httpx.Client(base_url=gateway.url, timeout=20) as http:
        http.put("/v1/bots/cut", json={"knowledge": "k"}).raise_for_status()
        path = f"/v1/bots/cut/sessions/{http.post('/v1/bots/cut/sessions').json()['session_id']}"
        session = path.rpartition("/")[2]
        asked = {"message": "first", "session_id": session, "stream": True}
        seen = ""

        def read() -> None:
            nonlocal seen
            with http.stream("POST", "/v1/bots/cut/chat", json=asked) as response:
                for text in response.iter_text():
                    seen += text
                    if "event: part" in seen and not killed.is_set():
                        killed.set()
                        gateway.kill()

        killed = threading.Event()
        with pytest.raises(httpx.TransportError):
            read()
        moment = time.monotonic()
        assert "event: answer" not in seen
        assert served.left.wait(10), "the model still works for nobody"
        gateway.wait()
        served.pause = None
        start()
        assert http.get(path).raise_for_status().json()["turns"] == []
        again = http.post("/v1/bots/cut/chat", json=asked | {"stream": False}).raise_for_status()
        recovered = time.monotonic() - moment
        (turn,) = http.get(path).json()["turns"]
        assert turn["response"] == json.loads(again.text)["response"]
    cut = Outcome(seen={"connection cut": 1, "200": 1}, recovered=recovered, promised=3)
    report.add("gateway killed in the middle of a stream", cut)


@pytest.mark.parametrize("database", ["SQLite"], indirect=True)
def test_a_stream_that_outlasts_the_grace_after_sigterm_ends_with_a_problem(
    start: Start, served: FakeTorchServe, report: Report
) -> None:
    served.pause = threading.Event()
    gateway = start(GODEL_SHUTDOWN_GRACE="1")
    seen = ""
    with httpx.Client(base_url=gateway.url, timeout=20) as http:
        http.put("/v1/bots/late", json={"knowledge": "k"}).raise_for_status()
        moment = time.monotonic()
        with http.stream("POST", "/v1/bots/late/chat", json={"message": "x", "stream": True}) as response:
            for text in response.iter_text():
                if not seen:
                    gateway.terminate()
                seen += text
    events = parse(seen)
    assert events[0].name == "part"
    assert events[-1].name == "problem"
    assert json.loads(events[-1].data)["type"] == "urn:godel-serve:shutting-down"
    assert gateway.wait() == 0
    assert "Traceback" not in gateway.log
    ended = Outcome(seen={"200, then problem 503": 1}, recovered=time.monotonic() - moment, promised=1)
    report.add("SIGTERM while a stream outlasts the grace of 1 s; gateway ended", ended)
