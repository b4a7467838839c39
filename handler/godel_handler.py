"""The TorchServe handler: parses each request, submits it to the scheduler, collects what is finished.

The only file that knows TorchServe, and it defines exactly one class, as TorchServe's loader demands.

In continuous mode (`continuousBatching: true`) TorchServe calls `handle` again and again with every live
request; an answer goes out when it is ready, or part by part, and `b""` stands for "not yet". In classic mode
it calls once with a whole batch and waits for all of it. The engine runs meanwhile, and between two calls, in a
thread of its own. A bad request gets its own status; only a broken engine raises.
"""

import contextlib
import ctypes
import dataclasses
import gc
import json
import logging
import math
import sys
import time
from pathlib import Path
from typing import Any

from ts.metrics.metric_type_enum import MetricTypes

from handler.contract.archive import METADATA, MODEL_FOLDER, TOKENIZER
from handler.contract.generation import GenerationParameters, ParameterError
from handler.contract.prompt import FORMAT_VERSION
from handler.contract.wire import DESCRIBE_HEADER, GenerateReply, GenerateRequest, WireError, encode_failure
from handler.engine_thread import EngineThread, EngineThreadEndedError, News
from handler.engines import DEFAULT_ENGINE, load_engine
from handler.engines.base import EngineError
from handler.engines.heap import share_one_arena
from handler.scheduler import CPU_PATIENCE, Finished, Scheduler
from handler.streaming import TextStream
from handler.tokenization import Tokenization

logger = logging.getLogger(__name__)

JSON = "application/json"
JSON_LINES = "application/x-ndjson"


class GodelHandler:
    """One worker's model. TorchServe makes it without arguments, then calls `initialize` once."""

    def initialize(self, context: Any) -> None:
        """Load the archive. Raises EngineError, which TorchServe logs, when it cannot be served as it is."""
        properties, config = context.system_properties, context.model_yaml_config
        options = config.get("handler", {})
        _quieten_the_worker()
        model_dir = Path(properties["model_dir"])
        self._metadata = json.loads((model_dir / METADATA).read_text(encoding="utf-8"))
        if self._metadata.get("format_version") != FORMAT_VERSION:
            raise EngineError(
                f"this archive has prompt format {self._metadata.get('format_version')}, the handler speaks"
                f" {FORMAT_VERSION}: build it again with `make archive`"
            )
        self._continuous = bool(config.get("continuousBatching", False))
        self._call_seconds = float(options.get("call_milliseconds", 60)) / 1e3
        self._stream_seconds = float(options.get("stream_milliseconds", 25)) / 1e3
        self._tokenization = Tokenization(model_dir / TOKENIZER)
        share_one_arena()  # before the engine's thread begins
        self._thread = EngineThread(lambda: self._load(properties, config, model_dir))
        self._requests: dict[str, GenerateRequest] = {}
        self._streams: dict[str, TextStream] = {}
        _settle()
        logger.info("serving %s", json.dumps(self._describe()))

    def _load(self, properties: dict[str, Any], config: dict[str, Any], model_dir: Path) -> Scheduler:
        """Return the engine behind its scheduler, warm. Called in the engine's thread."""
        options = config.get("handler", {})
        # batchSize means slots when batching is continuous and the batch when it is not: both live at once.
        engine = load_engine(
            options.get("engine", DEFAULT_ENGINE),
            options.get("precision", "auto"),
            model_dir / MODEL_FOLDER,
            slots=int(properties.get("batch_size") or 1),
            device=config.get("deviceType", "cpu"),
            gpu_id=properties.get("gpu_id"),
            threads=options.get("threads"),
            max_prompt_tokens=int(options.get("max_prompt_tokens", 512)),
            max_new_tokens=int(options.get("max_new_tokens", 256)),
        )
        self._description = engine.description
        patience = CPU_PATIENCE if engine.description.device == "cpu" else 0.0
        if (milliseconds := options.get("patience_milliseconds")) is not None:
            patience = float(milliseconds) / 1e3
        scheduler = Scheduler(engine, prefill_tokens=engine.description.max_prompt_tokens, patience=patience)
        # One short request, so that the first user does not pay for lazy initialisation.
        scheduler.submit("warm-up", self._tokenization.encode("Hello."), GenerationParameters(max_length=4))
        while not scheduler.idle:
            scheduler.step()
        return scheduler

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[bytes]:
        """Answer one call of TorchServe: `data[i]` is the body of the request `context.request_ids[i]`."""
        context.stopping_criteria = None
        if not data:
            return []
        ids = [context.request_ids[index] for index in range(len(data))]
        replies: dict[str, bytes] = {}
        self._drop_all_but(ids)
        known = set(self._requests)
        for index, key in enumerate(ids):
            if key not in known:
                refused = self._accept(key, data[index], index, context)
                if refused is not None:
                    replies[key] = refused
                context.set_response_content_type(index, JSON_LINES if key in self._streams else JSON)
        try:
            # What is refused, or asks what is served, does not wait for the others.
            if not (self._continuous and replies):
                replies |= self._run(context)
        except EngineThreadEndedError as error:
            sys.exit(f"the worker ends, to be started anew: {error}")
        except Exception:
            # Every live request fails with this call; none of them may haunt the next.
            self._thread.reset()
            self._requests.clear()
            self._streams.clear()
            raise
        if self._continuous:
            self._mark_progress(ids, known, replies, context)
        parts = {key: stream.take() for key, stream in self._streams.items()}
        return [replies.get(key) or parts.get(key, b"") for key in ids]

    def _drop_all_but(self, ids: list[str]) -> None:
        """Forget the requests that TorchServe no longer names: their clients have left."""
        gone = self._requests.keys() - set(ids)
        for key in gone:
            logger.info("request %s was given up by its client", self._requests[key].request_id)
            self._thread.cancel(key)
            self._forget(key)
        if gone and not self._requests:
            # An engine that failed when nobody was there any more is no matter of those who come now.
            self._thread.reset()

    def _accept(self, key: str, row: dict[str, Any], index: int, context: Any) -> bytes | None:
        """Submit a new request; return its reply at once when it is refused or only asks what is served."""
        if context.get_request_header(index, DESCRIBE_HEADER) == "True":
            return json.dumps(self._describe()).encode()
        request = None
        try:
            request = GenerateRequest.decode(row.get("body") or row.get("data") or b"")
            prompt_ids = self._tokenization.encode(request.prompt)
            self._check_limits(request, len(prompt_ids))
        except WireError as error:
            request_id = request.request_id if request else error.request_id
            logger.info("request %s refused: %d %s", request_id, error.status, error.code)
            context.metrics.add_counter("GodelRejected", 1, idx=key)
            context.set_response_status(code=error.status, phrase=error.code, idx=index)
            return encode_failure(error, request_id)
        self._requests[key] = request
        if request.stream:
            self._streams[key] = TextStream(self._tokenization)
        self._thread.submit(
            key,
            prompt_ids,
            request.parameters,
            submitted_at=request.submitted_at,
            deadline=request.deadline,
            followed=request.stream,
        )
        return None

    def _check_limits(self, request: GenerateRequest, prompt_tokens: int) -> None:
        """Raise WireError for what the contract allows but this engine cannot do."""
        limits, parameters = self._description, request.parameters
        problems = {}
        if prompt_tokens > limits.max_prompt_tokens:
            problems["prompt"] = f"has {prompt_tokens} tokens; the served model reads {limits.max_prompt_tokens}"
        if parameters.max_length > limits.max_new_tokens:
            problems["parameters.max_length"] = (
                f"is {parameters.max_length}; the served model writes at most {limits.max_new_tokens} tokens"
            )
        if parameters.num_beams > limits.max_beams:
            problems["parameters.num_beams"] = (
                f"is {parameters.num_beams}; the served engine searches at most {limits.max_beams}"
            )
        if problems:
            raise WireError(422, "beyond_model_limits", str(ParameterError(problems)), problems)

    def _run(self, context: Any) -> dict[str, bytes]:
        """Wait until something must go out or the call's time is used up; in classic mode until all is done."""
        replies: dict[str, bytes] = {}
        start = time.monotonic()
        while self._requests:
            news = self._wait(start)
            for finished in news.finished:
                replies[str(finished.key)] = self._reply(finished, news.live, context)
            for key, tokens in news.tokens.items():
                self._streams[str(key)].advance(tokens)
            if self._continuous and (replies or self._due(time.monotonic() - start)):
                break
        return replies

    def _wait(self, start: float) -> News:
        """Wait for what may end the call that began at `start`."""
        if not self._continuous:
            return self._thread.wait()
        begun = all(stream.begun for stream in self._streams.values())
        return self._thread.wait(
            due=start + self._call_seconds, parts_due=start + self._stream_seconds if begun else -math.inf
        )

    def _due(self, seconds: float) -> bool:
        """Return whether a call that has run for `seconds` must give TorchServe what there is."""
        waiting = [stream for stream in self._streams.values() if stream.waiting]
        if not all(stream.begun for stream in waiting):
            return True
        return seconds >= (self._stream_seconds if waiting else self._call_seconds)

    def _reply(self, finished: Finished, live: int, context: Any) -> bytes:
        key = str(finished.key)
        request, stream = self._requests[key], self._streams.get(key)
        self._forget(key)
        self._measure(finished, live, context.metrics)
        reply = GenerateReply(
            request_id=request.request_id,
            text=self._tokenization.decode(finished.tokens),
            finish_reason=finished.finish_reason,
            prompt_tokens=finished.prompt_tokens,
            completion_tokens=len(finished.tokens),
            queue_ms=round(finished.queue_ms, 3),
            compute_ms=round(finished.compute_ms, 3),
            batch_size=finished.batch_size,
        )
        return stream.finish(reply) if stream else reply.encode()

    def _forget(self, key: str) -> None:
        del self._requests[key]
        self._streams.pop(key, None)

    def _measure(self, finished: Finished, live: int, metrics: Any) -> None:
        """Emit what `metrics.yaml` declares. TorchServe's histograms are made for seconds."""
        key = str(finished.key)
        metrics.add_counter("GodelRequests", 1, idx=key)
        metrics.add_counter("GodelPromptTokens", finished.prompt_tokens, idx=key)
        metrics.add_counter("GodelCompletionTokens", len(finished.tokens), idx=key)
        metrics.add_metric("GodelLiveSlots", live, unit="count", idx=key, metric_type=MetricTypes.GAUGE)
        for name, value, unit in (
            ("GodelQueueSeconds", finished.queue_ms / 1e3, "s"),
            ("GodelComputeSeconds", finished.compute_ms / 1e3, "s"),
            ("GodelBatchSize", finished.batch_size, "count"),
        ):
            metrics.add_metric(name, value, unit=unit, idx=key, metric_type=MetricTypes.HISTOGRAM)

    def _mark_progress(self, ids: list[str], known: set[str], replies: dict[str, bytes], context: Any) -> None:
        """Tell TorchServe of each request whether more follows.

        False: more follows. True: this was the last part. None: a whole reply with a status of its own,
        the only right answer for a request that ends in its first call (True would leave out the HTTP header).
        """

        def verdict(key: str) -> bool | None:
            if key not in replies:
                return False
            return True if key in known else None

        verdicts = [verdict(key) for key in ids]
        context.stopping_criteria = [lambda _, verdict=verdict: verdict for verdict in verdicts]

    def _describe(self) -> dict[str, Any]:
        """What is served, for the management API's `customized=true`."""
        mode = "continuous" if self._continuous else "classic"
        return {**self._metadata, **dataclasses.asdict(self._description), "batching": mode}


def _settle() -> None:
    """Give back what loading took for a while, and spare the collector of garbage what stays."""
    gc.collect()
    gc.freeze()
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _quieten_the_worker() -> None:
    """Keep TorchServe's worker from logging a line for every call; metrics travel as log lines and must stay."""
    logging.getLogger().setLevel(logging.WARNING)
    for name in ("ts.metrics", "handler", __name__):
        logging.getLogger(name).setLevel(logging.INFO)
