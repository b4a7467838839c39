"""What is promised over fakes is kept by a gateway as it is served: a process, a database, HTTP, a model beyond it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from pydantic import SecretStr
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

from gateway.app import create_app
from gateway.settings import Settings
from tests.gateway.fake_torchserve import FakeTorchServe
from tests.gateway.serving import GatewayProcess, running

KEY = "an admin key for tests"
HEADERS = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory, tokenizer_file: Path) -> Iterator[GatewayProcess]:
    with running(FakeTorchServe()) as torchserve:
        gateway = GatewayProcess(
            {
                "GODEL_ADMIN_KEY": KEY,
                "GODEL_INFERENCE_URL": torchserve,
                "GODEL_MANAGEMENT_URL": torchserve,
                "GODEL_TOKENIZER": str(tokenizer_file),
                "GODEL_DATABASE_URL": f"sqlite:///{tmp_path_factory.mktemp('store')}/bots.db",
            }
        )
        yield gateway
        gateway.close()


schema = schemathesis.openapi.from_dict(create_app(Settings(admin_key=SecretStr(KEY))).openapi())
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance]


@schema.parametrize()
@settings(max_examples=3, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_no_request_breaks_a_served_gateway_or_surprises_its_client(
    process: GatewayProcess, case: schemathesis.Case[Any]
) -> None:
    response = case.call_and_validate(base_url=process.url, checks=CHECKS, headers=HEADERS)
    assert response.status_code not in (401, 403), "a refusal tries nothing"


def test_nothing_broke_unseen(process: GatewayProcess) -> None:
    assert "failed unexpectedly" not in process.log
    assert "Traceback" not in process.log
