"""The management API as the README shows it: describe, register a second version, make it the default, unregister."""

import shutil
import urllib.error
from pathlib import Path

import httpx
import pytest

from handler.contract.generation import GenerationParameters
from handler.contract.prompt import render
from handler.contract.wire import GenerateRequest, decode_reply
from launcher.trial import trial_torchserve
from training.archive import build_archive

MODEL = "models/embedded"


def answered(url: str) -> bool:
    prompt = render(["What is blue?"], "The sea is blue.")
    body = GenerateRequest(prompt=prompt, request_id="r", parameters=GenerationParameters(max_length=8)).encode()
    return bool(decode_reply(httpx.post(url, content=body, timeout=60).content).completion_tokens)


def test_a_second_version_is_registered_made_the_default_and_unregistered(tmp_path: Path, archive: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    shutil.copy(archive, store / "godel.mar")
    build_archive(MODEL, store / "godel-2.0.mar", engine="torch", precision="bf16", version="2.0")
    with trial_torchserve(tmp_path / "run", store / "godel.mar", {"enable_model_api": "true"}) as torchserve:
        manage = torchserve.manage
        (first,) = manage("GET", "/models/godel")
        assert first["modelVersion"] == "1.0"
        assert first["continuousBatching"] is True

        registered = manage("POST", "/models?url=godel-2.0.mar&model_name=godel&initial_workers=1&synchronous=true")
        assert "2.0" in registered["status"]
        versions = manage("GET", "/models/godel/all")
        assert sorted(version["modelVersion"] for version in versions) == ["1.0", "2.0"]
        assert {worker["status"] for version in versions for worker in version["workers"]} == {"READY"}

        manage("PUT", "/models/godel/2.0/set-default")
        assert manage("GET", "/models/godel")[0]["modelVersion"] == "2.0"
        assert answered(f"{torchserve.inference_url}/predictions/godel")
        assert answered(f"{torchserve.inference_url}/predictions/godel/1.0")

        manage("DELETE", "/models/godel/1.0")
        assert [version["modelVersion"] for version in manage("GET", "/models/godel/all")] == ["2.0"]
        assert answered(f"{torchserve.inference_url}/predictions/godel")


def test_registering_is_refused_unless_the_model_api_is_switched_on(tmp_path: Path, archive: Path) -> None:
    with trial_torchserve(tmp_path / "run", archive) as torchserve:
        with pytest.raises(urllib.error.HTTPError) as refused:
            torchserve.manage("POST", "/models?url=godel.mar")
        assert refused.value.code == 405
