"""The end-to-end tests: over the stack of tests/conftest.py."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from launcher.properties import ROOT
from launcher.serve import Stack

E2E = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder starts real processes."""
    for item in items:
        if E2E in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def passage() -> str:
    """The passage that the examples talk about."""
    return (ROOT / "examples" / "cricket.txt").read_text(encoding="utf-8").strip()


@pytest.fixture
def http(stack: Stack) -> Iterator[httpx.Client]:
    """A client of the gateway."""
    with httpx.Client(base_url=stack.gateway_url, timeout=60) as client:
        yield client
