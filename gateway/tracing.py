"""Traces of requests, by OpenTelemetry: from the client's own trace, if it has one, down to the model.

Off unless `GODEL_TRACING` is set; where to is said by OpenTelemetry's own variables, OTEL_EXPORTER_OTLP_ENDPOINT and
the like. A span holds the route's template, a status, the request's id and counts: never a path, never a text.
"""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from http import HTTPStatus
from typing import Final

from opentelemetry import context, propagate, trace
from opentelemetry.trace import SpanKind, Status, StatusCode, TracerProvider
from starlette.datastructures import Headers
from starlette.types import Scope

from gateway.errors import GatewayError, Misconfigured
from gateway.inference import Inference, ModelDescription
from handler.contract.wire import GenerateReply, GenerateRequest

SERVICE: Final = "godel-gateway"
NAME: Final = "gateway"


@contextmanager
def tracing(on: bool) -> Iterator[TracerProvider | None]:
    """Yield what makes spans, None when nothing is to; send those that are left at the end.

    Raises Misconfigured without the libraries.
    """
    if not on:
        yield None
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider as Provider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise Misconfigured("tracing needs more libraries: pip install -r requirements/tracing.txt") from error
    # OTEL_SERVICE_NAME wins over ours.
    provider = Provider(resource=Resource({"service.name": SERVICE}).merge(Resource.create()))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    try:
        yield provider
    finally:
        provider.shutdown()


class RequestSpan:
    """The span of a request that is being served, in its client's trace; the current one until `end`."""

    def __init__(self, provider: TracerProvider, scope: Scope) -> None:
        # By items: looked up by name each header is searched for among all, and there may be fifty thousand.
        headers = dict(Headers(scope=scope).items())
        self._span = provider.get_tracer(NAME).start_span(
            "request", context=propagate.extract(headers), kind=SpanKind.SERVER
        )
        self._token = context.attach(trace.set_span_in_context(self._span))

    def end(self, method: str, route: str, status: int, request_id: str) -> None:
        """Say what came of the request; `route` is a template, never a path."""
        self._span.update_name(f"{method} {route}")
        self._span.set_attributes(
            {
                "http.request.method": method,
                "http.route": route,
                "http.response.status_code": status,
                "godel.request_id": request_id,
            }
        )
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            self._span.set_status(StatusCode.ERROR)
        context.detach(self._token)
        self._span.end()


class TracedInference:
    """An `Inference` whose answers are spans: the whole call, and in it what the handler says of queue and model."""

    def __init__(self, inference: Inference, provider: TracerProvider) -> None:
        self._inference, self._tracer = inference, provider.get_tracer(NAME)

    async def generate(self, request: GenerateRequest) -> GenerateReply:
        """Return the answer to one prompt."""
        with self._span() as span:
            reply = await self._inference.generate(request)
            self._describe(span, request, reply)
        return reply

    async def stream(self, request: GenerateRequest) -> AsyncGenerator[str | GenerateReply, None]:
        """Yield the answer to one prompt in parts."""
        with self._span() as span:
            async with aclosing(self._inference.stream(request)) as parts:
                async for part in parts:
                    if isinstance(part, GenerateReply):
                        self._describe(span, request, part)
                    elif span.is_recording():
                        span.add_event("part")
                    yield part

    async def ready(self) -> None:
        """Return when the model has answered."""
        await self._inference.ready()

    async def describe(self) -> ModelDescription:
        """Return what is served."""
        return await self._inference.describe()

    @contextmanager
    def _span(self) -> Iterator[trace.Span]:
        """A span that is not made the current one: parts of a stream are awaited by one task after the other."""
        span = self._tracer.start_span("generate", kind=SpanKind.CLIENT)
        try:
            yield span
        except GatewayError as error:
            span.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise
        finally:
            span.end()

    def _describe(self, span: trace.Span, request: GenerateRequest, reply: GenerateReply) -> None:
        """Add the handler's own part: it measures itself, so its spans are made here, by what it says."""
        if not span.is_recording():
            return
        span.set_attributes(
            {
                "gen_ai.usage.input_tokens": reply.prompt_tokens,
                "gen_ai.usage.output_tokens": reply.completion_tokens,
                "gen_ai.response.finish_reasons": [reply.finish_reason],
                "godel.batch_size": reply.batch_size,
            }
        )
        start, parent = request.submitted_at * 1e3, trace.set_span_in_context(span)
        for name, milliseconds in (("handler queue", reply.queue_ms), ("handler compute", reply.compute_ms)):
            part = self._tracer.start_span(name, context=parent, start_time=int(start * 1e6))
            start += milliseconds
            part.end(int(start * 1e6))
