"""What Prometheus may know of the gateway: times, tokens, failures. Never a text, and labels of bounded number."""

import functools
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from gateway.admission import Admission
from gateway.errors import GatewayError
from gateway.inference import Inference, ModelDescription
from handler.contract.wire import GenerateReply, GenerateRequest

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

MAX_BOT_LABELS: Final = 100
"""The first bots that answer are counted by name, all others together: a label for each of thousands would swamp
the monitoring."""

OTHER_BOTS: Final = "(others)"

SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
BATCHES: Final = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The gateway's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        own = self._registry
        self._requests = Counter("godel_requests", "HTTP requests.", ["method", "route", "status"], registry=own)
        self._request_seconds = Histogram(
            "godel_request_seconds",
            "From request to the end of its response.",
            ["route"],
            buckets=SECONDS,
            registry=own,
        )
        self._failures = Counter("godel_model_failures", "Answers that failed, by cause.", ["cause"], registry=own)
        self._first = Histogram(
            "godel_time_to_first_token_seconds",
            "From request to model to its first text.",
            buckets=SECONDS,
            registry=own,
        )
        self._queue = Histogram("godel_queue_seconds", "Waiting for a slot.", buckets=SECONDS, registry=own)
        self._compute = Histogram("godel_compute_seconds", "In the model.", buckets=SECONDS, registry=own)
        self._batch = Histogram("godel_batch_size", "Most requests that shared a step.", buckets=BATCHES, registry=own)
        self._tokens = Counter("godel_tokens", "Tokens, as the model counts them.", ["kind"], registry=own)
        self._answers = Counter("godel_answers", "Answers by bot.", ["bot"], registry=own)
        self._refusals = Counter("godel_refusals", "Requests that got no answer, by cause.", ["cause"], registry=own)
        self._in_flight = Gauge("godel_in_flight", "Requests at the model.", registry=own)
        self._waiting = Gauge("godel_waiting", "Requests that wait for a place at the model.", registry=own)
        self._bots: set[str] = set()
        # To find a metric by its labels takes longer than to count in it.
        self._prompt_tokens, self._completion_tokens = self._tokens.labels("prompt"), self._tokens.labels("completion")
        self._requests_of = functools.cache(self._requests.labels)
        self._seconds_of = functools.cache(self._request_seconds.labels)
        self._answers_of = functools.cache(self._answers.labels)

    @property
    def registry(self) -> CollectorRegistry:
        """Where further metrics may be added."""
        return self._registry

    def watch(self, admission: Admission) -> None:
        """Show how many are let in and how many wait, whenever somebody looks."""
        self._in_flight.set_function(lambda: admission.in_flight)
        self._waiting.set_function(lambda: admission.waiting)

    def requested(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an HTTP request; `route` is a template, never a path."""
        self._requests_of(method, route, status).inc()
        self._seconds_of(route).observe(seconds)

    def answered(self, reply: GenerateReply) -> None:
        """Count what an answer took."""
        self._queue.observe(reply.queue_ms / 1e3)
        self._compute.observe(reply.compute_ms / 1e3)
        self._batch.observe(reply.batch_size)
        self._prompt_tokens.inc(reply.prompt_tokens)
        self._completion_tokens.inc(reply.completion_tokens)

    def answered_for(self, bot_id: str) -> None:
        """Count an answer of this bot."""
        if bot_id not in self._bots and len(self._bots) < MAX_BOT_LABELS:
            self._bots.add(bot_id)
        self._answers_of(bot_id if bot_id in self._bots else OTHER_BOTS).inc()

    def first_text(self, seconds: float) -> None:
        """Count how long a reader waited for the first text."""
        self._first.observe(seconds)

    def failed(self, error: GatewayError) -> None:
        """Count an answer that did not come."""
        self._failures.labels(type(error).__name__).inc()

    def refused(self, error: GatewayError) -> None:
        """Count a request that ends with a problem: bad input, no key, a limit, a full queue, a failure."""
        self._refusals.labels(type(error).__name__).inc()

    def exposition(self) -> bytes:
        """Return all of it in Prometheus' text format, 0.0.4."""
        return generate_latest(self._registry)


class MeasuredInference:
    """An `Inference` that counts what another one does."""

    def __init__(self, inference: Inference, metrics: Metrics, timer: Callable[[], float] = time.perf_counter) -> None:
        self._inference, self._metrics, self._timer = inference, metrics, timer

    async def generate(self, request: GenerateRequest) -> GenerateReply:
        """Return the answer to one prompt."""
        try:
            reply = await self._inference.generate(request)
        except GatewayError as error:
            self._metrics.failed(error)
            raise
        self._metrics.answered(reply)
        return reply

    async def stream(self, request: GenerateRequest) -> AsyncGenerator[str | GenerateReply, None]:
        """Yield the answer to one prompt in parts."""
        start, waiting = self._timer(), True
        try:
            async with aclosing(self._inference.stream(request)) as parts:
                async for part in parts:
                    if waiting:
                        self._metrics.first_text(self._timer() - start)
                        waiting = False
                    if isinstance(part, GenerateReply):
                        self._metrics.answered(part)
                    yield part
        except GatewayError as error:
            self._metrics.failed(error)
            raise

    async def ready(self) -> None:
        """Return when the model has answered."""
        await self._inference.ready()

    async def describe(self) -> ModelDescription:
        """Return what is served."""
        return await self._inference.describe()
