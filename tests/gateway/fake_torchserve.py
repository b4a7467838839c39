"""TorchServe as the gateway sees it: what it answers, oddities included, without Java and without a model."""

import asyncio
import contextlib
import json
import re
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import ModelError
from handler.contract.wire import GenerateReply, GenerateRequest, WireError, decode_reply, encode_failure, encode_part

READY = {"id": "9000", "status": "READY", "pid": 4711, "gpu": False}


def echo(request: GenerateRequest) -> bytes:
    """Return the reply that repeats the prompt."""
    return GenerateReply(
        request_id=request.request_id,
        text=request.prompt,
        finish_reason="stop",
        prompt_tokens=7,
        completion_tokens=5,
        queue_ms=1.0,
        compute_ms=2.0,
        batch_size=3,
    ).encode()


@dataclass
class FakeTorchServe:
    """Inference and management API in one ASGI application; change its fields to change how it behaves."""

    workers: list[dict[str, Any]] = field(default_factory=lambda: [READY])
    known: str = "godel"
    reply: Callable[[GenerateRequest], bytes] = echo
    status: int | None = None
    """Answer every prediction with this, in TorchServe's own words."""
    cut: bool = False
    """Close the connection in the middle of each reply, as a dying worker does."""
    pause: threading.Event | None = None
    """Streams wait for it after their first part."""
    gate: threading.Event | None = None
    """Predictions wait until it is set."""
    words: dict[str, Any] = field(
        default_factory=lambda: {"engine": "torch", "precision": "fp32", "device": "cpu", "max_prompt_tokens": 512}
    )
    """What the handler says of itself."""
    seen: list[GenerateRequest] = field(default_factory=list)
    described: int = 0
    arrived: threading.Event = field(default_factory=threading.Event)
    left: threading.Event = field(default_factory=threading.Event)
    """Set when a client went away before its reply."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        match scope["method"], scope["path"].split("/")[1:]:
            case "GET", ["models", name]:
                assert not scope["query_string"], "a customised describe stalls a continuous-batching worker"
                await self._describe(name, send)
            case "POST", ["predictions", name] if name == self.known:
                if dict(scope["headers"]).get(b"describe") == b"True":
                    self.described += 1
                    await _send(send, 200, json.dumps(self.words).encode())
                else:
                    await self._predict(GenerateRequest.decode(body), receive, send)
            case _:
                await _send(send, 404, _own_error(404))

    async def _describe(self, name: str, send: Send) -> None:
        if name != self.known:
            await _send(send, 404, _own_error(404))
            return
        state = {
            "modelName": name,
            "modelVersion": "1.0",
            "batchSize": 8,
            "workers": self.workers,
            "jobQueueStatus": {"remainingCapacity": 60, "pendingRequests": 4},
        }
        await _send(send, 200, json.dumps([state]).encode())

    async def _predict(self, request: GenerateRequest, receive: Receive, send: Send) -> None:
        self.seen.append(request)
        self.arrived.set()
        if self.gate is not None and not await self._opened(receive, self.gate):
            return
        if self.status is not None:
            await _send(send, self.status, _own_error(self.status))
            return
        try:
            body = self.reply(request)
        except WireError as error:
            await _send(send, error.status, encode_failure(error, request.request_id))
            return
        if request.stream:
            await self._stream(body, receive, send)
            return
        if self.cut:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": body[:10], "more_body": True})
            raise ConnectionError("the worker died")
        await _send(send, 200, body)

    async def _stream(self, body: bytes, receive: Receive, send: Send) -> None:
        """Send the text of `body` word by word, chunks ending where they like, then `body` itself."""
        headers = [(b"content-type", b"application/x-ndjson")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        words: list[str] = []
        with contextlib.suppress(WireError):
            words = re.findall(r"\S+\s*|\s+", decode_reply(body).text)
        for number, word in enumerate(words):
            line = encode_part(word)
            for half in (line[:9], line[9:]):
                await send({"type": "http.response.body", "body": half, "more_body": True})
            if number == 0 and self.pause is not None and not await self._opened(receive, self.pause):
                return
            if self.cut:
                raise ConnectionError("the worker died")
        await send({"type": "http.response.body", "body": body + b"\n"})

    async def _opened(self, receive: Receive, gate: threading.Event) -> bool:
        """Wait for `gate`; return False when the client goes away first."""
        gone = asyncio.ensure_future(receive())
        try:
            while not gate.is_set():
                await asyncio.wait({gone}, timeout=0.01)
                if gone.done():
                    self.left.set()
                    return False
        finally:
            gone.cancel()
        return True


class InProcess:
    """`Connections` to an ASGI application, without a socket."""

    def __init__(self, app: ASGIApp, *failures: ModelError) -> None:
        """What is sent first fails as told."""
        self.failures = list(failures)
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(app))

    async def send(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes = b"", patience: float | None
    ) -> "Whole":
        """Return the response when all of it has come."""
        if self.failures:
            raise self.failures.pop(0)
        response = await self._client.request(method, url, headers=headers, content=body, timeout=patience)
        return Whole(response.status_code, response.content)


@dataclass
class Whole:
    """A response that has come."""

    status: int
    body: bytes

    async def read(self) -> bytes:
        """Return all of it."""
        return self.body

    async def parts(self) -> AsyncIterator[bytes]:
        """Yield all of it at once."""
        yield self.body

    def close(self) -> None:
        """Nothing is to be let go."""


def _own_error(status: int) -> bytes:
    return json.dumps({"code": status, "type": "SomeException", "message": "in TorchServe's own words"}).encode()


async def _send(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json")] + ([(b"connection", b"close")] if status >= 400 else [])
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
