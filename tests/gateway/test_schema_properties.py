"""Whatever the OpenAPI document allows, the gateway answers with a status and a format that it declares."""

from typing import Any

import schemathesis
from hypothesis import HealthCheck, settings
from pydantic import SecretStr
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

from gateway.app import create_app
from gateway.inference import EchoInference
from gateway.settings import Settings
from gateway.store.memory import MemoryStore
from tests.gateway.conftest import count_words

KEY = "an admin key for tests"
app = create_app(
    Settings(admin_key=SecretStr(KEY)), store=MemoryStore(), inference=EchoInference(), count_tokens=count_words
)
schema = schemathesis.openapi.from_asgi("/openapi.json", app)
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance]


@schema.parametrize()
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_no_request_breaks_the_gateway_or_surprises_its_client(case: schemathesis.Case[Any]) -> None:
    response = case.call_and_validate(checks=CHECKS, headers={"Authorization": f"Bearer {KEY}"})
    assert response.status_code not in (401, 403), "a refusal tries nothing"
