"""A real TorchServe with the embedded model and a real gateway, started once for all end-to-end tests."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from launcher.properties import ROOT
from launcher.serve import Stack
from launcher.trial import ARCHIVE, trial_stack

E2E = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder starts real processes."""
    for item in items:
        if E2E in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def archive() -> Path:
    """The archive of the embedded model, which `make test` builds."""
    assert ARCHIVE.is_file(), "run `make archive` first, or `make test`, which does"
    return ARCHIVE


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, archive: Path) -> Iterator[Stack]:
    """TorchServe and gateway on free ports."""
    with trial_stack(tmp_path_factory.mktemp("stack"), archive) as running:
        yield running


@pytest.fixture(scope="session")
def passage() -> str:
    """The passage that the examples talk about."""
    return (ROOT / "examples" / "cricket.txt").read_text(encoding="utf-8").strip()


@pytest.fixture
def http(stack: Stack) -> Iterator[httpx.Client]:
    """A client of the gateway."""
    with httpx.Client(base_url=stack.gateway_url, timeout=60) as client:
        yield client
