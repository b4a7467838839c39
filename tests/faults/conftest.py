"""Gateways as processes before a TorchServe that fails on demand, and the report of all faults."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launcher.properties import ROOT
from tests.faults.faulty_archive import build_faulty_archive
from tests.faults.proxy import Proxy
from tests.faults.report import Report
from tests.gateway.fake_torchserve import FakeTorchServe
from tests.gateway.serving import GatewayProcess, running

FAULTS = Path(__file__).parent

Start = Callable[..., GatewayProcess]

_report = Report()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder breaks something on purpose."""
    for item in items:
        if FAULTS in item.path.parents:
            item.add_marker(pytest.mark.faults)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the faults did, and keep it."""
    if _report.outcomes:
        terminalreporter.section("faults")
        for line in _report.lines():
            terminalreporter.write_line(line)
        _report.save()


@pytest.fixture(scope="session")
def report() -> Report:
    return _report


@pytest.fixture(scope="module")
def shared_model() -> FakeTorchServe:
    return FakeTorchServe()


@pytest.fixture(scope="module")
def shared_proxy(shared_model: FakeTorchServe) -> Iterator[Proxy]:
    """What stands between the shared gateway and the shared model."""
    with running(shared_model) as url, Proxy(int(url.rpartition(":")[2])) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def gateway(
    request: pytest.FixtureRequest, shared_proxy: Proxy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    """One gateway for all faults of a module, with the module's SETTINGS: each finds it well."""
    database_url = f"sqlite+aiosqlite:///{tmp_path_factory.mktemp('database')}/godel.db"
    gateway = GatewayProcess(environment(shared_proxy, database_url) | request.module.SETTINGS)
    yield gateway
    gateway.close()


@pytest.fixture
def served() -> FakeTorchServe:
    return FakeTorchServe()


@pytest.fixture
def proxy(served: FakeTorchServe) -> Iterator[Proxy]:
    """What stands between the gateway and the fake."""
    with running(served) as url, Proxy(int(url.rpartition(":")[2])) as proxy:
        yield proxy


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path}/godel.db"


@pytest.fixture
def start(proxy: Proxy, database_url: str) -> Iterator[Start]:
    """Start gateways before the proxy, one after the other on the same port; end them with the test."""
    started: list[GatewayProcess] = []
    port = free_port()

    def begin(**settings: str) -> GatewayProcess:
        own = environment(proxy, database_url) | {"GODEL_PORT": str(port)}
        started.append(GatewayProcess(own | settings))
        return started[-1]

    yield begin
    for gateway in started:
        gateway.close()


def environment(proxy: Proxy, database_url: str) -> dict[str, str]:
    """Return the settings of a gateway before `proxy`."""
    return {
        "GODEL_INFERENCE_URL": proxy.url,
        "GODEL_MANAGEMENT_URL": proxy.url,
        "GODEL_TOKENIZER": str(ROOT / "models" / "embedded" / "tokenizer.json"),
        "GODEL_DATABASE_URL": database_url,
    }


def free_port() -> int:
    """Return a port of loopback that is free just now."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture(scope="session")
def faulty_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive whose engine fails when a prompt says so."""
    path = tmp_path_factory.mktemp("store") / "godel.mar"
    build_faulty_archive(path)
    return path
