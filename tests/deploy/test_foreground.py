"""TorchServe alone in a container: settings, logs, drain and probe, without a TorchServe."""

import json
import os
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from handler.contract.wire import GenerateRequest
from launcher import ready
from launcher.excerpt import main as excerpt
from launcher.follow import Follower
from launcher.foreground import drain, overrides
from launcher.properties import CONFIG, free_ports, read_properties, render_properties
from tests.gateway.fake_torchserve import echo

# --- settings ---


def test_a_host_takes_the_place_of_the_addresses_own_and_keeps_their_ports() -> None:
    own = read_properties(CONFIG)
    changed = overrides(CONFIG, "0.0.0.0", None)  # noqa: S104 - a pod's
    assert changed == {
        name: own[name].replace("127.0.0.1", "0.0.0.0")  # noqa: S104
        for name in ("inference_address", "management_address", "metrics_address")
    }
    assert overrides(CONFIG, "::", None)["inference_address"] == "http://[::]:8080"


def test_an_archive_brings_its_folder_as_the_store_and_the_only_source() -> None:
    changed = overrides(CONFIG, None, Path("/models/mine.mar"))
    assert changed["model_store"] == "/models"
    assert changed["load_models"] == "godel=mine.mar"
    assert changed["allowed_urls"] == "file:///models/.*"


def test_nothing_asked_for_changes_nothing() -> None:
    assert overrides(CONFIG, None, None) == {}


# --- drain ---


def test_a_drain_waits_for_the_last_connection() -> None:
    counts = iter([2, 1, 0, 1, 0, 0, 0])
    assert drain(lambda: next(counts), 60, lambda: False) == 0
    assert list(counts) == [], "one connection that goes is no end: another may be on its way"


def test_a_drain_says_what_is_left_when_time_is_up_or_somebody_hurries() -> None:
    assert drain(lambda: 3, 0, lambda: False) == 3
    assert drain(lambda: 3, 60, lambda: True) == 3


# --- logs ---


def test_logs_are_copied_whole_lines_at_a_time_across_a_roll_over(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as output, Follower([log, tmp_path / "never.log"], writing):
        log.write_bytes(b"one\ntw")
        assert output.readline() == b"one\n"
        with log.open("ab") as file:
            file.write(b"o\n")
        assert output.readline() == b"two\n"
        log.rename(tmp_path / "a.1.log")
        log.write_bytes(b"three\n")
        assert output.readline() == b"three\n"
    os.close(writing)


def test_the_last_lines_are_copied_before_the_end(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    reading, writing = os.pipe()
    with Follower([log], writing):
        log.write_bytes(b"the reason\n")
    os.close(writing)
    with os.fdopen(reading, "rb") as output:
        assert output.read() == b"the reason\n"


# --- probe ---


class Server(BaseHTTPRequestHandler):
    """Management and inference in one; its class attributes say how it behaves."""

    workers: list[dict[str, object]] = []  # noqa: RUF012 - set by each test
    answers = True
    asked: list[GenerateRequest] = []  # noqa: RUF012
    keys: dict[str, str] = {}  # noqa: RUF012
    """The key that each method asks for."""

    def parse_request(self) -> bool:
        """Turn away who does not bring the key, in TorchServe's way."""
        good = super().parse_request()
        wanted = self.keys.get(self.command)
        if good and wanted and self.headers.get("authorization") != f"Bearer {wanted}":
            self._reply(400, b"{}")
            return False
        return good

    def do_GET(self) -> None:
        self._reply(200, json.dumps([{"workers": self.workers}]).encode())

    def do_POST(self) -> None:
        request = GenerateRequest.decode(self.rfile.read(int(self.headers["content-length"])))
        self.asked.append(request)
        self._reply(200, echo(request)) if self.answers else self._reply(503, b"{}")

    def _reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""


WORKER = {"status": "READY", "pid": 7, "startTime": "2026-01-01T00:00:00.000Z"}


@pytest.fixture
def run_dir(tmp_path: Path) -> Iterator[Path]:
    """A run folder whose settings lead to a fake server."""
    Server.workers, Server.answers, Server.asked, Server.keys = [WORKER], True, [], {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    own = read_properties(CONFIG) | {"inference_address": url, "management_address": url}
    (tmp_path / "config.properties").write_text(render_properties(own))
    yield tmp_path
    server.shutdown()
    server.server_close()
    thread.join()


def test_ready_is_a_worker_that_has_answered_and_it_is_asked_once(run_dir: Path) -> None:
    assert [ready.main(["--run-dir", str(run_dir)]) for _ in range(3)] == [0, 0, 0]
    assert len(Server.asked) == 1


def test_a_worker_that_came_anew_is_asked_again_even_with_the_same_number(run_dir: Path) -> None:
    assert ready.main(["--run-dir", str(run_dir)]) == 0
    Server.workers = [WORKER | {"startTime": "2026-01-01T00:01:00.000Z"}]
    assert ready.main(["--run-dir", str(run_dir)]) == 0
    assert len(Server.asked) == 2


def test_not_ready_says_why(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases: tuple[tuple[list[dict[str, object]], bool, str], ...] = (
        ([], True, "no worker has loaded the model"),
        ([WORKER | {"status": "UNLOADING"}], True, "no worker has loaded the model"),
        ([{"status": "READY"}], True, "did not describe the model"),
        ([WORKER], False, "a canary prompt got status 503"),
    )
    for workers, answers, reason in cases:
        Server.workers, Server.answers = workers, answers
        assert ready.main(["--run-dir", str(run_dir)]) == 1
        assert reason in capsys.readouterr().err
    assert not (run_dir / ready.PROOF).exists()


def test_a_server_that_asks_for_keys_gets_its_own(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = run_dir / "config.properties"
    settings.write_text(settings.read_text().replace("disable_token_authorization=true\n", ""))
    Server.keys = {"GET": "manages", "POST": "infers"}
    assert ready.main(["--run-dir", str(run_dir)]) == 1
    assert "has not written its keys" in capsys.readouterr().err
    written = {"management": {"key": "manages"}, "inference": {"key": "infers"}, "API": {"key": "a"}}
    (run_dir / "key_file.json").write_text(json.dumps(written))
    assert ready.main(["--run-dir", str(run_dir)]) == 0
    assert len(Server.asked) == 1


def test_not_ready_where_nothing_listens_whatever_proxy_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    (tmp_path / "config.properties").write_text(render_properties(read_properties(CONFIG) | free_ports()))
    assert ready.main(["--run-dir", str(tmp_path)]) == 1
    assert "does not answer" in capsys.readouterr().err


# --- excerpt ---


def test_an_excerpt_of_what_is_no_archive_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "not.mar").write_bytes(b"PK")
    assert excerpt([str(tmp_path / "not.mar"), str(tmp_path / "out.mar")]) == 1
    assert "no model archive" in capsys.readouterr().err
    assert not (tmp_path / "out.mar").exists()


def test_an_excerpt_never_takes_the_place_of_its_archive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from launcher.trial import ARCHIVE

    copy = tmp_path / "godel.mar"
    copy.write_bytes(ARCHIVE.read_bytes())
    assert excerpt([str(copy), str(copy)]) == 1
    assert "the archive itself" in capsys.readouterr().err
    assert copy.read_bytes() == ARCHIVE.read_bytes()


def test_an_excerpt_leaves_the_weights_out_and_serves_a_gateway(tmp_path: Path) -> None:
    from gateway.served_archive import read_archive
    from launcher.trial import ARCHIVE

    out = tmp_path / "tokenizer.mar"
    assert excerpt([str(ARCHIVE), str(out)]) == 0
    assert read_archive(out) == read_archive(ARCHIVE)
    assert zipfile.ZipFile(out).namelist() == ["metadata.json", "model/tokenizer.json"]
