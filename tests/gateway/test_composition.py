"""The composition root: what it makes it closes, what it is given it leaves alone, and what it refuses."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter
from pydantic import ValidationError

from gateway import app as composition
from gateway.app import create_app
from gateway.errors import Misconfigured
from gateway.inference import EchoInference
from gateway.served_archive import read_archive
from gateway.settings import Settings
from gateway.store.memory import MemoryStore
from tests.gateway.conftest import count_words
from tests.gateway.serving import ROOT

pytestmark = pytest.mark.anyio


def database_files(settings: Settings) -> list[str]:
    folder = Path(settings.database_url.removeprefix("sqlite:///")).parent
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


async def test_what_the_application_opens_it_closes(settings: Settings, tokenizer_file: Path) -> None:
    app = create_app(settings.model_copy(update={"tokenizer": tokenizer_file}))
    async with app.router.lifespan_context(app):
        services = app.state.services
        await services.store.page(limit=1)
        assert len(services.inference.members) == 1
        assert "bots.db-wal" in database_files(settings)
    assert services.inference.members == []
    assert database_files(settings) == ["bots.db"]  # SQLite folds its log in when the last connection closes


async def test_nothing_is_opened_before_the_application_starts(settings: Settings) -> None:
    create_app(settings)
    assert database_files(settings) == []


async def test_a_start_that_fails_leaves_nothing_open(settings: Settings, tokenizer_file: Path) -> None:
    app = create_app(settings.model_copy(update={"tokenizer": tokenizer_file, "database_url": "nosuch://x"}))
    with pytest.raises(Misconfigured, match="database_url"):
        async with app.router.lifespan_context(app):
            pass


async def test_what_the_application_is_given_it_uses(settings: Settings) -> None:
    store, inference = MemoryStore(), EchoInference()
    app = create_app(settings, store=store, inference=inference, count_tokens=count_words)
    async with app.router.lifespan_context(app):
        assert app.state.services.store is store
        assert [member.inference for member in app.state.services.inference.members] == [inference]


def test_a_route_that_a_bot_could_shadow_is_refused(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    router = APIRouter()
    router.add_api_route("/admin/{path}", lambda: None)
    monkeypatch.setattr(composition, "ROUTERS", (*composition.ROUTERS, router))
    with pytest.raises(Misconfigured, match="admin"):
        create_app(settings)


def archive(path: Path, tokenizer: Path, metadata: Any) -> Path:
    with zipfile.ZipFile(path, "w") as mar:
        mar.writestr("MAR-INF/MANIFEST.json", "{}")
        mar.write(tokenizer, "model/tokenizer.json")
        mar.writestr("metadata.json", json.dumps(metadata))
    return path


@pytest.mark.parametrize(
    ("metadata", "budget"),
    [({"format_version": 1, "max_prompt_tokens": 48}, 48), ({"max_prompt_tokens": 9999}, 64), ({}, 64)],
)
async def test_the_archive_caps_the_prompt_budget(
    settings: Settings, tokenizer_file: Path, tmp_path: Path, metadata: dict[str, int], budget: int
) -> None:
    mar = archive(tmp_path / "godel.mar", tokenizer_file, metadata)
    app = create_app(settings.model_copy(update={"tokenizer": mar}))
    async with app.router.lifespan_context(app):
        assert app.state.services.chat.prompts.budget == budget


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda _: None, "missing"),
        (lambda path: path.write_bytes(b"no zip"), "no archive"),
        (lambda path: zipfile.ZipFile(path, "w").close(), "no archive"),
        (lambda path: path.mkdir(), "no archive"),
        (lambda path: archive(path, ROOT / "pyproject.toml", {"format_version": 99}), "prompt format 99"),
        (lambda path: archive(path, ROOT / "pyproject.toml", ["odd"]), "metadata"),
    ],
    ids=["missing", "not-a-zip", "empty-zip", "folder", "other-format", "odd-metadata"],
)
def test_an_archive_that_cannot_be_used_is_named_with_the_reason(
    tmp_path: Path, write: Callable[[Path], object], reason: str
) -> None:
    path = tmp_path / "some.mar"
    write(path)
    with pytest.raises(Misconfigured, match=f"some.mar.*{reason}"):
        read_archive(path)


def test_settings_come_from_the_environment_and_cannot_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GODEL_PORT", "9001")
    monkeypatch.setenv("GODEL_INFERENCE_URL", "http://10.0.0.1:80/")
    settings = Settings()
    assert (settings.port, settings.inference_url) == (9001, "http://10.0.0.1:80")
    with pytest.raises(ValidationError):
        settings.port = 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "65536"), ("INFERENCE_URL", "ftp://x"), ("REQUEST_TIMEOUT", "0"), ("MODEL_NAME", "../x")],
)
def test_a_setting_that_cannot_work_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"GODEL_{name}", value)
    with pytest.raises(ValidationError, match=name.lower()):
        Settings()


def test_every_setting_says_why() -> None:
    assert all(field.description for field in Settings.model_fields.values())
