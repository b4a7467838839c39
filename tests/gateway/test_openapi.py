"""The OpenAPI document: complete, true to the contract, and readable."""

from typing import Any

import pytest

from gateway import openai_errors
from gateway.app import create_app
from gateway.settings import Settings
from handler.contract.generation import GenerationParameters


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app(Settings()).openapi()


def operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{method.upper()} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def test_every_operation_has_a_summary_and_a_tag(document: dict[str, Any]) -> None:
    assert [name for name, operation in operations(document) if not operation.get("summary")] == []
    chapters = [tag["name"] for tag in document["tags"]]
    assert {tag for _, operation in operations(document) for tag in operation.get("tags", [""])} == set(chapters)


def test_every_operation_has_a_short_name_of_its_own(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, operation in operations(document)]
    assert len(names) == len(set(names))
    assert [name for name in names if not name.isidentifier() or "v1" in name] == []


def test_every_failure_is_declared_in_the_format_it_has(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        openai = name.partition(" ")[2].startswith(openai_errors.PATHS)
        for status, response in operation["responses"].items():
            if status >= "400":
                expected = "application/json" if openai else "application/problem+json"
                assert list(response["content"]) == [expected], f"{name} {status}"


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    def references(node: Any) -> list[str]:
        if isinstance(node, dict):
            own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
            return own + [found for value in node.values() for found in references(value)]
        return [found for value in node for found in references(value)] if isinstance(node, list) else []

    for reference in references(document):
        node = document
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]


def test_the_parameters_are_those_of_the_contract(document: dict[str, Any]) -> None:
    schema = document["components"]["schemas"]["ChatInput"]["properties"]["parameters"]
    bounds, defaults = GenerationParameters.bounds(), GenerationParameters().to_mapping()
    assert schema["properties"].keys() == defaults.keys()
    for name, shape in schema["properties"].items():
        assert shape.get("default") == defaults[name]
        assert shape["description"] == bounds[name].meaning
        if shape["type"] != "boolean":
            assert (shape["minimum"], shape["maximum"]) == (bounds[name].minimum, bounds[name].maximum)


def test_every_field_that_clients_send_is_explained(document: dict[str, Any]) -> None:
    for name in ("BotInput", "ChatInput"):
        for field, shape in document["components"]["schemas"][name]["properties"].items():
            assert shape.get("description") or shape.get("examples"), f"{name}.{field}"
