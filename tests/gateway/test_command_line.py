"""`godel`, over HTTP to a gateway with an echo for a model."""

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from gateway.__main__ import main as serve
from gateway.app import create_app
from gateway.command_line import main
from gateway.errors import ModelDown
from gateway.inference import EchoInference
from gateway.settings import Settings
from gateway.store.memory import MemoryStore
from tests.gateway.conftest import count_words
from tests.gateway.serving import ROOT, running

ADMIN = "an admin key for tests"


@pytest.fixture
def model() -> EchoInference:
    return EchoInference(answer=lambda _: "Eleven play.")


@pytest.fixture
def address(settings: Settings, model: EchoInference) -> Iterator[str]:
    app = create_app(settings, store=MemoryStore(), inference=model, count_tokens=count_words)
    with running(app) as url:
        yield url


@pytest.fixture
def guarded(settings: Settings, model: EchoInference) -> Iterator[str]:
    chosen = settings.model_copy(update={"admin_key": SecretStr(ADMIN)})
    with running(create_app(chosen, store=MemoryStore(), inference=model, count_tokens=count_words)) as url:
        yield url


class Godel:
    """Runs commands and returns what they print."""

    def __init__(self, capsys: pytest.CaptureFixture[str], url: str, **environment: str) -> None:
        self._capsys, self._environment = capsys, {"GODEL_URL": url, **environment}
        self.errors = ""

    def __call__(self, *arguments: str, status: int = 0) -> str:
        assert main(arguments, self._environment) == status
        captured = self._capsys.readouterr()
        self.errors = captured.err
        return captured.out


@pytest.fixture
def godel(address: str, capsys: pytest.CaptureFixture[str]) -> Godel:
    return Godel(capsys, address)


def test_a_bot_from_beginning_to_end(godel: Godel) -> None:
    assert godel("bots", "create", "cricket", "--name", "Cricket", "--set", "do_sample=false") == "created cricket\n"
    shown = json.loads(godel("bots", "show", "cricket"))
    assert (shown["name"], shown["parameters"]) == ("Cricket", {"do_sample": False})
    head, row = godel("bots", "list").splitlines()
    assert head.split() == ["BOT", "CHARACTERS", "CHANGED", "NAME"]
    assert row.split()[0::4] == ["cricket", "Cricket"]
    assert godel("chat", "cricket", "How many?") == "Eleven play.\n"
    assert godel("bots", "delete", "cricket") == "deleted cricket\n"
    assert len(godel("bots", "list").splitlines()) == 1


def test_a_gateway_of_this_machine_is_not_sought_behind_a_proxy(godel: Godel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert godel("bots", "list").startswith("BOT ")


def test_documents_are_uploaded_at_creation_or_later(godel: Godel, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<h1>Go</h1><script>x</script><p>It is older.</p>")
    assert "created go" in godel("bots", "create", "go", "--file", str(page))
    assert "It is older." in json.loads(godel("bots", "show", "go"))["knowledge"]
    page.with_suffix(".txt").write_text("word " * 40_000)
    assert godel("bots", "teach", "go", str(page.with_suffix(".txt"))).startswith("go knows 199999 characters")


def test_a_file_that_is_not_there_leaves_no_bot_behind(godel: Godel, tmp_path: Path) -> None:
    godel("bots", "create", "go", "--file", str(tmp_path / "nosuch.txt"), status=1)
    assert "nosuch.txt" in godel.errors
    godel("bots", "show", "go", status=1)


def test_a_conversation_remembers_and_outlives_a_failure(
    godel: Godel, model: EchoInference, monkeypatch: pytest.MonkeyPatch
) -> None:
    godel("bots", "create", "cricket", "--knowledge", "Eleven play.")
    monkeypatch.setattr(sys, "stdin", io.StringIO("first\n\n second \nthird\n"))
    broken = iter([False, True, False])

    def answer(_: object) -> str:
        if next(broken):
            raise ModelDown("the worker died")
        return "An answer."

    model.answer = answer
    assert godel("chat", "cricket") == "An answer.\nAn answer.\n"
    assert godel.errors == "godel: the worker died\n"
    assert "first EOS An answer. EOS third" in model.requests[-1].prompt


def test_answers_cannot_command_the_terminal(godel: Godel, model: EchoInference) -> None:
    godel("bots", "create", "evil")
    model.answer = lambda _: "\x1b]0;owned\x07 \x9b31m fine\ttab\nline"
    assert godel("chat", "evil", "x") == "\ufffd]0;owned\ufffd \ufffd31m fine\ttab\nline\n"


def test_keys_are_made_used_rotated_and_revoked(guarded: str, capsys: pytest.CaptureFixture[str]) -> None:
    admin = Godel(capsys, guarded, GODEL_ADMIN_KEY=ADMIN)
    admin("bots", "create", "cricket", "--knowledge", "k")
    token = admin("keys", "create", "--scope", "chat", "--bot", "cricket", "--name", "site", "--days", "30").strip()
    user = Godel(capsys, guarded, GODEL_API_KEY=token, GODEL_ADMIN_KEY="not this one")
    assert user("chat", "cricket", "x") == "Eleven play.\n"
    user("bots", "delete", "cricket", status=1)
    assert "scope edit" in user.errors
    head, row = admin("keys", "list").splitlines()
    assert head.split()[:3] == ["KEY", "SCOPE", "BOTS"]
    key_id = row.split()[0]
    assert row.split()[1:3] == ["chat", "cricket"]
    assert token.split("_", 2)[2] not in row
    heir = admin("keys", "rotate", key_id, "--overlap", "0").strip()
    user("chat", "cricket", "x", status=1)
    assert "GODEL_API_KEY" in user.errors
    assert Godel(capsys, guarded, GODEL_API_KEY=heir)("chat", "cricket", "x") == "Eleven play.\n"
    assert admin("keys", "revoke", key_id) == f"revoked {key_id}\n"
    admin("keys", "revoke", "nosuch", status=1)
    assert "`godel keys list` shows" in admin.errors


@pytest.mark.parametrize(
    ("url", "named"),
    [("http://127.0.0.1:1", "make serve"), ("nonsense", "nonsense"), ("http://[", "http://[")],
)
def test_no_gateway_is_one_line_that_says_what_to_do(capsys: pytest.CaptureFixture[str], url: str, named: str) -> None:
    godel = Godel(capsys, url)
    godel("bots", "list", status=1)
    assert named in godel.errors
    assert godel.errors.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["bots"], ["bots", "create", "x", "--set", "top_p"], ["keys", "create"]])
def test_a_wrong_command_shows_how_it_goes(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments, {})
    assert "usage: godel" in capsys.readouterr().err


def test_an_option_that_the_gateway_does_not_have_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        serve(["--port", "8080", "serve"])
    assert "there is no option --port" in capsys.readouterr().err


def test_bots_of_the_old_kind_are_imported_into_the_database(tmp_path: Path) -> None:
    file = tmp_path / "bots.json"
    file.write_text('{"cricket": "Eleven play."}')
    environment = {"PATH": "", "GODEL_DATABASE_URL": f"sqlite:///{tmp_path}/bots.db"}
    command = [sys.executable, "-m", "gateway.command_line", "import", str(file)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "imported 1 bots: 1 new, 0 replaced\n"), done.stderr


@pytest.mark.parametrize("command", ["import", "backup", "restore"])
def test_what_works_on_the_database_here_is_not_done_for_a_gateway_elsewhere(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    godel = Godel(capsys, "https://bots.example.org")
    godel(command, str(tmp_path / "file"), status=1)
    assert "https://bots.example.org" in godel.errors
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_has_seen_enough_is_no_error(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    Godel(capsys, address)("bots", "create", "long", "--knowledge", "word " * 100_000)
    command = [sys.executable, "-m", "gateway.command_line", "--url", address, "bots", "show", "long"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(5) == b'{\n  "'
        process.stdout.close()
        assert process.wait(30) == 0
        assert process.stderr.read() == b""


@pytest.mark.parametrize("key", ["geheim-\N{LATIN SMALL LETTER U WITH DIAERESIS}", "secret\nX-Other: 1"])
def test_a_key_that_cannot_be_one_is_not_repeated(guarded: str, capsys: pytest.CaptureFixture[str], key: str) -> None:
    godel = Godel(capsys, guarded, GODEL_API_KEY=key)
    godel("bots", "list", status=1)
    assert godel.errors == "godel: the key (GODEL_API_KEY) holds characters that no key has\n"


def test_no_key_or_a_wrong_one_is_told_with_what_to_do(guarded: str, capsys: pytest.CaptureFixture[str]) -> None:
    for environment in ({}, {"GODEL_API_KEY": "wrong"}):
        godel = Godel(capsys, guarded, **environment)
        godel("bots", "list", status=1)
        assert "GODEL_API_KEY" in godel.errors
        assert godel.errors.count("\n") == 1


def test_a_command_that_cannot_be_done_is_one_line(godel: Godel, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    godel("bots", "create", "go")
    for arguments, named in {
        ("bots", "create", "go"): "already there",
        ("bots", "create", "../x"): "bot_id",
        ("bots", "create", "new", "--set", "warmth=1"): "warmth",
        ("bots", "show", "nobody"): "no bot called nobody; `godel bots list` shows",
        ("bots", "delete", "nobody"): "nobody",
        ("bots", "teach", "nobody", str(tmp_path / "nosuch.txt")): "nosuch.txt",
        ("bots", "teach", "go", str(picture)): ".txt, .md, .html or .pdf",
        ("bots", "teach", "go", str(tmp_path)): str(tmp_path),
        ("chat", "nobody", "x"): "no bot called nobody; `godel bots list` shows",
        ("chat", "go", " "): "blank",
        ("keys", "create", "--scope", "chat"): "GODEL_ADMIN_KEY",
        ("keys", "create", "--scope", "chat", "--days", "1e30"): "1e+30 days",
    }.items():
        godel(*arguments, status=1)
        assert named in godel.errors, arguments
        assert godel.errors.count("\n") == 1, godel.errors
