"""The model behind TorchServe: its inference and management APIs as an `Inference`, its oddities hidden.

What has to be known of TorchServe 0.12: `/ping` says nothing, so readiness is a READY worker and a reply;
503 stands both for "no worker" and for "queue full"; a worker that dies answers its requests with 500 or
507, or cuts the connection in the middle of a reply; a failure of the handler carries the contract's own JSON.
"""

import asyncio
import contextlib
import json
import socket
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, closing
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self, TypeVar

from gateway.errors import ModelBusy, ModelDown, ModelError, ModelGarbled, ModelRejected, ModelTimeout, WorkerDied
from gateway.inference import ModelDescription
from gateway.settings import Settings
from gateway.torchserve_connections import AiohttpConnections, Connections, Response, SocketOption
from gateway.torchserve_keys import TorchServeKey
from gateway.torchserve_state import describe, workers
from handler.contract.canary import canary
from handler.contract.wire import DESCRIBE_HEADER, GenerateReply, GenerateRequest, WireError, decode_line, decode_reply

MAX_CONNECTIONS = 256
RECONNECT_SECONDS = 0.25
CANARY_SECONDS = 10.0
MANAGEMENT_SECONDS = 2.0
LATENESS_SECONDS = 2.0
"""How long after its deadline an answer may arrive: the model returns what it has *at* the deadline."""

KEY_REFUSED = "TorchServe asks for a key and did not take the gateway's; is GODEL_TORCHSERVE_KEYS its key_file.json?"

SILENCE_SECONDS = 10
"""After how long without a sign of life from the other machine a connection counts as cut. A machine that has lost its
network says nothing, and TCP alone would wait for a quarter of an hour; a model that is slow is no silence, for its
machine acknowledges."""

PREDICT = {"content-type": "application/json"}
DESCRIBE = PREDICT | {DESCRIBE_HEADER: "True"}

T = TypeVar("T")


class TorchServeInference:
    """An `Inference` over HTTP. `connections` are the caller's to close; `archive` is the metadata of the served .mar.

    `key_file` is TorchServe's, where it asks for keys. `patience` are the seconds that an answer without a deadline may
    take.
    """

    def __init__(
        self,
        connections: Connections,
        *,
        inference_url: str,
        management_url: str,
        model_name: str,
        archive: Mapping[str, Any] | None = None,
        key_file: Path | None = None,
        patience: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._connections = connections
        self._predictions = f"{inference_url}/predictions/{model_name}"
        self._model = f"{management_url}/models/{model_name}"
        self._patience = patience
        self._name = model_name
        self._archive = archive or {}
        self._inference_key = None if key_file is None else TorchServeKey(key_file, "inference")
        self._management_key = None if key_file is None else TorchServeKey(key_file, "management")
        self._clock = clock
        self._own_words: dict[str, Any] = {}
        self._described: frozenset[int | None] = frozenset()
        self._proven: frozenset[int | None] = frozenset()
        self._proving = asyncio.Lock()

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings, archive: Mapping[str, Any]) -> AsyncIterator[Self]:
        """Yield the inference that `settings` describe; close its connections after."""
        async with AiohttpConnections(
            max_connections=MAX_CONNECTIONS, keep=settings.keep_connections, socket_options=_signs_of_life()
        ) as connections:
            yield cls(
                connections,
                inference_url=settings.inference_url,
                management_url=settings.management_url,
                model_name=settings.model_name,
                archive=archive,
                key_file=settings.torchserve_keys,
                patience=settings.request_timeout + 2 * LATENESS_SECONDS,
            )

    async def generate(self, request: GenerateRequest) -> GenerateReply:
        """Return the answer to one prompt. Raises a ModelError."""
        status, body = await self._post(request.encode(), PREDICT, self._until(request))
        if status != HTTPStatus.OK:
            raise await self._failure(status, body)
        try:
            return _own(decode_reply(body), request)
        except WireError as error:
            raise _meaning(error) from error

    async def stream(self, request: GenerateRequest) -> AsyncGenerator[str | GenerateReply, None]:
        """Yield the parts of the answer to one prompt, last its reply. Raises a ModelError."""
        until = self._until(request)
        response = await _in_time(self._send(request.encode(), PREDICT, until), until)
        with closing(response):
            if response.status != HTTPStatus.OK:
                raise await self._failure(response.status, await _in_time(response.read(), until))
            lines = _lines(response)
            while True:
                try:
                    item = decode_line(await _in_time(anext(lines), until))
                except StopAsyncIteration:
                    raise ModelGarbled("the answer stopped before its end") from None
                except WireError as error:
                    raise _meaning(error) from error
                yield _own(item, request) if isinstance(item, GenerateReply) else item
                if isinstance(item, GenerateReply):
                    return

    def _until(self, request: GenerateRequest) -> float | None:
        """Return until when, by the event loop's clock, an answer to `request` is worth waiting for.

        The clock on the wall is asked just once, and believed no further than the time the request was given: it may
        be set while we wait.
        """
        if request.deadline is None:
            return None
        left = min(request.deadline - self._clock(), request.deadline - request.submitted_at)
        return asyncio.get_running_loop().time() + left + LATENESS_SECONDS

    async def _failure(self, status: int, body: bytes) -> ModelError:
        """Return what an unsuccessful response means: the handler's own words, or else TorchServe's status."""
        try:
            decode_reply(body)
        except WireError as error:
            if error.code != "bad_reply":
                return _meaning(error)
        match status:
            case 503:
                return await self._busy_or_down()
            case 413:
                return ModelRejected("the prompt is larger than TorchServe takes", status=413)
            case 404:
                return ModelDown(f"TorchServe has no model called {self._name}", reached=False)
            case 400:
                return ModelDown(KEY_REFUSED, reached=False)
            case 500 | 507:
                return WorkerDied("the worker died while it answered")
            case _:
                return ModelDown(f"TorchServe answered with status {status}")

    async def ready(self) -> None:
        """Return when the present workers have answered a canary prompt; asked once for each worker.

        Behind a load balancer another server's workers may be met each time: one that has answered is believed.
        """
        pids = await self._ready_workers()
        async with self._proving:
            if not pids <= self._proven:
                await self.generate(canary(self._clock(), CANARY_SECONDS))
                self._proven |= pids

    async def describe(self) -> ModelDescription:
        """Return what TorchServe's management API says, and what the handler adds to it."""
        state = await self._state()
        pids = frozenset(worker.pid for worker in workers(state) if worker.ready)
        if pids and self._described != pids:
            with contextlib.suppress(ModelError):  # a busy worker cannot say; the archive still knows most of it
                self._own_words, self._described = await self._ask_handler(), pids
        return describe(self._name, state, {**self._archive, **self._own_words})

    async def _ask_handler(self) -> dict[str, Any]:
        """Return what the handler says of itself. It does not change while a worker lives.

        Asked by a prediction: the management API's `customized=true` would make TorchServe 0.12 repeat
        the question for ever under continuous batching, and admit nothing meanwhile.
        """
        until = asyncio.get_running_loop().time() + MANAGEMENT_SECONDS
        status, body = await self._post(b"", DESCRIBE, until)
        try:
            words = json.loads(body) if status == HTTPStatus.OK else None
        except ValueError:
            words = None
        if not isinstance(words, dict):
            raise ModelGarbled("the model did not describe itself")
        return words

    async def _post(self, body: bytes, headers: Mapping[str, str], until: float | None) -> tuple[int, bytes]:
        """Return the status and the body of the response to a prediction."""

        async def post() -> tuple[int, bytes]:
            response = await self._send(body, headers, until)
            return response.status, await response.read()

        return await _in_time(post(), until)

    async def _send(self, body: bytes, headers: Mapping[str, str], until: float | None) -> Response:
        """Send a prediction; once more when no connection came about, for then nothing was asked yet.

        Nothing else is repeated: what was sent may be in the model, or have been what killed it.
        """
        # Where there is a deadline it ends all waiting, and a clock for each part of an answer is work for nothing.
        patience = self._patience if until is None else None
        send = partial(self._connections.send, "POST", self._predictions, body=body, patience=patience)
        try:
            return await _signed(send, headers, self._inference_key)
        except ModelDown as error:
            if error.reached:
                raise
            await asyncio.sleep(RECONNECT_SECONDS)
            return await _signed(send, headers, self._inference_key)

    async def _state(self) -> dict[str, Any]:
        """Return the management API's description of the default version. Raises ModelDown or ModelGarbled."""
        send = partial(self._connections.send, "GET", self._model, patience=MANAGEMENT_SECONDS)
        try:
            response = await _signed(send, {}, self._management_key)
            body = await response.read()
        except ModelError as error:
            raise ModelDown("TorchServe's management API cannot be reached") from error
        if response.status == HTTPStatus.NOT_FOUND:
            raise ModelDown(f"TorchServe has no model called {self._name}")
        if response.status == HTTPStatus.BAD_REQUEST:
            raise ModelDown(KEY_REFUSED)
        if response.status != HTTPStatus.OK:
            raise ModelDown(f"TorchServe's management API answered with status {response.status}")
        try:
            versions = json.loads(body)
        except ValueError as error:
            raise ModelGarbled("TorchServe's management API did not answer in JSON") from error
        if not isinstance(versions, list) or not versions or not isinstance(versions[0], dict):
            raise ModelGarbled("TorchServe's management API did not describe the model")
        return versions[0]

    async def _ready_workers(self) -> frozenset[int | None]:
        """Return the process ids of the READY workers. Raises ModelDown when there is none."""
        pids = frozenset(worker.pid for worker in workers(await self._state()) if worker.ready)
        if not pids:
            raise ModelDown("no worker has loaded the model")
        return pids

    async def _busy_or_down(self) -> ModelError:
        """Return which of the two a bare 503 meant."""
        try:
            await self._ready_workers()
        except ModelError as error:
            return ModelDown(error.detail, reached=False)  # it was refused, whatever else is wrong
        return ModelBusy("the model's queue is full")


def _signs_of_life() -> list[SocketOption]:
    """Return the options of a socket that notices within SILENCE_SECONDS that the other machine is gone."""
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    if sys.platform == "linux":
        options += [
            (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENCE_SECONDS // 2),
            (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1),
            (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, SILENCE_SECONDS // 2),
            (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_SECONDS * 1000),
        ]
    return options


async def _signed(
    send: Callable[..., Awaitable[Response]], headers: Mapping[str, str], key: TorchServeKey | None
) -> Response:
    """Send a request with the key; once more when it is refused and there is another by now."""
    if key is None:
        return await send(headers=headers)
    signed = key.sign(headers)
    response = await send(headers=signed)
    if response.status != HTTPStatus.BAD_REQUEST or (renewed := key.renew(signed)) is None:
        return response
    response.close()
    return await send(headers=renewed)


async def _in_time(waiting: Awaitable[T], until: float | None) -> T:
    """Return what is waited for. Raises ModelTimeout when it has not come by then."""
    try:
        async with asyncio.timeout_at(until):
            return await waiting
    except TimeoutError as error:
        raise ModelTimeout("the model did not answer in time") from error


def _own(reply: GenerateReply, request: GenerateRequest) -> GenerateReply:
    """Return `reply` when it answers `request`. Raises ModelGarbled: what is another's must not be shown."""
    if reply.request_id != request.request_id:
        raise ModelGarbled("the model answered another request")
    return reply


async def _lines(response: Response) -> AsyncGenerator[bytes, None]:
    """Yield the lines of a body as they come."""
    rest = b""
    async for part in response.parts():
        *whole, rest = (rest + part).split(b"\n")
        for line in whole:
            yield line
    if rest:
        yield rest


def _meaning(error: WireError) -> ModelError:
    """Return what the handler's own failure means here, by its status."""
    if error.code == "bad_reply":
        return ModelGarbled(error.message)
    if error.status == 503:
        return ModelBusy(error.message)
    if error.status == 504:
        return ModelTimeout(error.message)
    if error.status < 500:
        return ModelRejected(error.message, status=error.status, problems=error.problems)
    return ModelDown(error.message)
