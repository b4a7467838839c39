"""A client that a generator makes of the OpenAPI document is complete, and works."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.app import create_app
from gateway.inference import EchoInference
from gateway.settings import Settings
from gateway.store.memory import MemoryStore
from tests.gateway.conftest import count_words
from tests.gateway.serving import running


@pytest.fixture
def address(settings: Settings) -> Iterator[str]:
    app = create_app(settings, store=MemoryStore(), inference=EchoInference(), count_tokens=count_words)
    with running(app) as url:
        yield url


def test_a_generated_client_makes_a_bot_and_talks_to_it(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = tmp_path / "openapi.json"
    document.write_text(httpx.get(f"{address}/openapi.json").text)
    folder = Path(sys.executable).parent
    made = subprocess.run(
        [folder / "openapi-python-client", "generate", "--path", document, "--output-path", tmp_path / "made"],
        env=os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "ERROR" not in made.stdout
    monkeypatch.syspath_prepend(str(tmp_path / "made"))
    package = "godel_serve_client"

    def part(name: str) -> Any:
        return importlib.import_module(f"{package}.{name}")

    client = part("client").Client(base_url=address)
    new_bot, said = part("models").NewBotInput(bot_id="cricket", knowledge="Eleven play."), part("models").ChatInput
    with client as connected:
        created = part("api.bots.create_bot").sync(client=connected, body=new_bot)
        assert created.bot_id == "cricket"
        answer = part("api.chat.chat").sync("cricket", client=connected, body=said(message="How many?"))
        assert answer.response.endswith("How many? [KNOWLEDGE] Eleven play.")
        assert part("api.bots.get_bot").sync_detailed("nosuch", client=connected).status_code == 404


def test_the_examples_of_the_document_are_requests_that_succeed(address: str) -> None:
    document = httpx.get(f"{address}/openapi.json").json()
    schemas = document["components"]["schemas"]

    def example(schema: dict[str, Any]) -> Any:
        if "$ref" in schema:
            schema = schemas[schema["$ref"].rpartition("/")[2]]
        if schema.get("examples"):
            return schema["examples"][0]
        if "properties" in schema:
            shown = {name: example(shape) for name, shape in schema["properties"].items()}
            return {name: value for name, value in shown.items() if value is not None}
        if schema.get("type") == "array":
            return [example(schema["items"])]
        return schema.get("default")

    statuses = {}
    with httpx.Client(base_url=address) as client:
        for path, operations in document["paths"].items():  # bots are made before they are asked
            for method, operation in operations.items():
                content = operation.get("requestBody", {}).get("content", {}).get("application/json")
                # Keys want an admin key set; deployments want a model that counts tokens as the gateway does.
                if content is None or path.startswith(("/v1/keys", "/v1/deployments")):
                    continue
                parameters = {
                    parameter["name"]: parameter["schema"].get("examples", ["cricket"])[0]
                    for parameter in operation.get("parameters", [])
                    if parameter["in"] == "path"
                }
                body = example(content["schema"])
                response = client.request(method, path.format(**parameters), json=body)
                statuses[f"{method} {path}"] = (response.status_code, json.dumps(body), response.text[:300])
    assert len(statuses) >= 5
    assert {name: told for name, told in statuses.items() if told[0] not in (200, 201)} == {}
