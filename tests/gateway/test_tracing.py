"""A request is one trace, from its client to the model; nothing in it was said by anybody."""

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from starlette.types import Receive, Scope, Send

from gateway.errors import Misconfigured
from gateway.tracing import tracing
from tests.gateway.fake_torchserve import FakeTorchServe
from tests.gateway.serving import GatewayProcess, running

SECRET = "xylophone"  # noqa: S105 - what a user wrote
TRACE = "0af7651916cd43dd8448eb211c80319c"


class Collector:
    """What OpenTelemetry's exporters send to."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.came = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take one export."""
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])
        assert scope["path"] == "/v1/traces"
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.bodies.append(body)
        self.came.set()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    @property
    def spans(self) -> list[Span]:
        """Every span so far."""
        exports = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        return [
            span
            for export in exports
            for resource in export.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


@pytest.fixture
def collected(tokenizer_file: Path, tmp_path: Path) -> Iterator[list[Span]]:
    """The spans of a gateway that answered twice and failed once, all in one trace of its client's."""
    collector, served = Collector(), FakeTorchServe()
    with running(collector) as address, running(served) as torchserve:
        gateway = GatewayProcess(
            {
                "GODEL_INFERENCE_URL": torchserve,
                "GODEL_MANAGEMENT_URL": torchserve,
                "GODEL_TOKENIZER": str(tokenizer_file),
                "GODEL_DATABASE_URL": f"sqlite:///{tmp_path}/bots.db",
                "GODEL_TRACING": "true",
                "OTEL_EXPORTER_OTLP_ENDPOINT": address,
                "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
            }
        )
        try:
            with httpx.Client(base_url=gateway.url) as client:
                client.headers["traceparent"] = f"00-{TRACE}-b7ad6b7169203331-01"
                client.get(f"/bot/context/{SECRET}").raise_for_status()
                client.get(f"/bot/chat/{SECRET}").raise_for_status()
                client.post("/v1/bots/bot/chat", json={"message": SECRET, "stream": True}).raise_for_status()
                served.status = 500
                assert client.get(f"/bot/chat/{SECRET}").status_code == 503
        finally:
            gateway.terminate()
            gateway.wait()
            gateway.close()
        assert collector.came.is_set()
        assert SECRET.encode() not in b"".join(collector.bodies)
        yield collector.spans


def test_a_request_is_one_trace_down_to_the_handler(collected: list[Span]) -> None:
    assert {span.trace_id.hex() for span in collected} == {TRACE}
    by_id = {span.span_id: span for span in collected}

    def way(span: Span) -> list[str]:
        parent = by_id.get(span.parent_span_id)
        return [*(way(parent) if parent else []), span.name]

    ways = sorted(way(span) for span in collected if span.name == "handler compute")
    assert ways == [
        ["GET /{bot_id}/chat/{message}", "generate", "handler compute"],
        ["POST /v1/bots/{bot_id}/chat", "generate", "handler compute"],
    ]
    roots = [span for span in collected if span.parent_span_id not in by_id]
    assert {span.parent_span_id.hex() for span in roots} == {"b7ad6b7169203331"}
    assert len(roots) == 4
    for span in collected:
        parent = by_id.get(span.parent_span_id)
        assert span.start_time_unix_nano <= span.end_time_unix_nano
        assert parent is None or parent.start_time_unix_nano <= span.start_time_unix_nano + 5_000_000


def test_a_failure_is_one_in_the_trace(collected: list[Span]) -> None:
    failed = [span.name for span in collected if span.status.code == span.status.STATUS_CODE_ERROR]
    assert sorted(failed) == ["GET /{bot_id}/chat/{message}", "generate"]


def test_without_tracing_there_are_no_spans_and_without_its_libraries_a_clear_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with tracing(False) as provider:
        assert provider is None
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(Misconfigured, match=r"requirements/tracing\.txt"), tracing(True):
        pass
