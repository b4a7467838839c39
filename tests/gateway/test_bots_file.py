"""Taking over bots of the old kind, by the command people type."""

import asyncio
import json
from pathlib import Path

import pytest

from gateway.__main__ import main
from gateway.bots import BotRules
from gateway.bots_file import parse
from gateway.errors import InvalidInput
from gateway.settings import Settings
from gateway.store.sql import SqlStore

RULES = BotRules(max_knowledge_characters=100)
WANTED = [("cricket", "Eleven play."), ("chess", "Two play.")]


@pytest.mark.parametrize(
    "content",
    [
        dict(WANTED),
        {name: {"context": text} for name, text in WANTED},
        {name: {"knowledge": text, "turns": []} for name, text in WANTED},
        [{"bot_id": name, "context": text} for name, text in WANTED],
        [{"id": name, "knowledge": text, "more": 1} for name, text in WANTED],
        [{"bot_id": "cricket", "context": "Eleven play."}, {"id": "chess", "knowledge": "Two play."}],
    ],
)
def test_every_old_shape_is_understood(content: object) -> None:
    assert [(draft.bot_id, draft.knowledge) for draft in parse(json.dumps(content), RULES)] == WANTED


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"ok": "x", "no good": "x"}', "'no good'"),
        ('{"v1": "x"}', "'v1'"),
        ('{"a": 5}', "'a'"),
        ('{"a": {"text": "x"}}', "'a'"),
        ('{"a": null}', "'a'"),
        ('{"twice": "x", "twice": "y"}', "'twice'"),
        ('[{"context": "x"}]', "entry 0"),
        ('["x"]', "entry 0"),
        ('[{"bot_id": "a", "context": "x"}, {"bot_id": "b"}]', "entry 1 \\('b'\\)"),
        (json.dumps({"long": "x" * 101}), "'long'"),
        (r'{"half": "\ud800"}', "'half'"),
        ("[" * 100_000, "not JSON"),
        ("{", "not JSON"),
        ('"bots"', "object"),
    ],
)
def test_each_bad_entry_is_named(text: str, named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        parse(text, RULES)


def test_all_bad_entries_are_named_at_once() -> None:
    with pytest.raises(InvalidInput) as caught:
        parse('{"a b": "x", "ok": "x", "c": 1}', RULES)
    assert len(caught.value.problems) == 2


@pytest.fixture
def file(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GODEL_DATABASE_URL", settings.database_url)
    path = tmp_path / "bots.json"
    path.write_text(json.dumps(dict(WANTED)), encoding="utf-8")
    return path


async def knowledge_in(settings: Settings) -> dict[str, str]:
    async with SqlStore.open(settings.database_url) as store:
        names = [bot.bot_id for bot in (await store.page(limit=99)).bots]
        return {name: (await store.get(name)).knowledge for name in names}


def bots(settings: Settings) -> dict[str, str]:
    return asyncio.run(knowledge_in(settings))


def test_one_command_imports_a_file(file: Path, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", str(file)]) == 0
    assert capsys.readouterr().out == "imported 2 bots: 2 new, 0 replaced\n"
    assert bots(settings) == dict(WANTED)


def test_existing_bots_are_named_and_nothing_is_imported_without_replace(
    file: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["import", str(file)])
    file.write_text('{"a-new-one": "x", "chess": "changed"}', encoding="utf-8")
    assert main(["import", str(file)]) == 1
    error = capsys.readouterr().err
    assert "already there: chess" in error
    assert "--replace" in error
    assert error.count("\n") == 1
    assert bots(settings) == dict(WANTED)

    assert main(["import", "--replace", str(file)]) == 0
    assert capsys.readouterr().out == "imported 2 bots: 1 new, 1 replaced\n"
    assert bots(settings) == {"a-new-one": "x", "chess": "changed", "cricket": "Eleven play."}


def test_a_bad_entry_imports_nothing(file: Path, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text('{"good": "x", "bad one": "x"}', encoding="utf-8")
    assert main(["import", str(file)]) == 1
    assert "'bad one'" in capsys.readouterr().err
    assert bots(settings) == {}


@pytest.mark.parametrize("name", ["missing.json", "."])
def test_a_file_that_cannot_be_read_is_one_line(
    file: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert file.exists()
    assert main(["import", str(tmp_path / name)]) == 1
    assert capsys.readouterr().err.count("\n") == 1
