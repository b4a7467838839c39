"""The model behind TorchServe: its inference and management APIs as an `Inference`, its oddities hidden.

What has to be known of TorchServe 0.12: `/ping` says nothing, so readiness is a READY worker and a reply;
503 stands both for "no worker" and for "queue full"; a worker that dies answers its requests with 500 or
507, or cuts the connection in the middle of a reply; a failure of the handler carries the contract's own JSON.
"""

import asyncio
import contextlib
import socket
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self

import httpx

from gateway.errors import ModelBusy, ModelDown, ModelError, ModelGarbled, ModelRejected, ModelTimeout, WorkerDied
from gateway.http_transport import AiohttpTransport
from gateway.inference import ModelDescription
from gateway.settings import Settings
from gateway.torchserve_keys import TorchServeKey
from gateway.torchserve_state import describe, workers
from handler.contract.canary import canary
from handler.contract.wire import DESCRIBE_HEADER, GenerateReply, GenerateRequest, WireError, decode_line, decode_reply

MAX_CONNECTIONS = 256
CONNECT_SECONDS = 2.0
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


class TorchServeInference:
    """An `Inference` over HTTP. The transport is the caller's to close; `archive` is the metadata of the served .mar.

    `key_file` is TorchServe's, where it asks for keys. `patience` are the seconds that an answer without a deadline may
    take.
    """

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport,
        *,
        inference_url: str,
        management_url: str,
        model_name: str,
        archive: Mapping[str, Any] | None = None,
        key_file: Path | None = None,
        patience: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        # A client's own work, cookies and redirects and the like, costs as much again as what it is for.
        self._transport = transport
        self._predictions = httpx.URL(f"{inference_url}/predictions/{model_name}")
        self._model = httpx.URL(f"{management_url}/models/{model_name}")
        self._predicting = _timeouts(patience)
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
        async with AiohttpTransport(
            max_connections=MAX_CONNECTIONS, keep=settings.keep_connections, socket_options=_signs_of_life()
        ) as transport:
            yield cls(
                transport,
                inference_url=settings.inference_url,
                management_url=settings.management_url,
                model_name=settings.model_name,
                archive=archive,
                key_file=settings.torchserve_keys,
                patience=settings.request_timeout + 2 * LATENESS_SECONDS,
            )

    async def generate(self, request: GenerateRequest) -> GenerateReply:
        """Return the answer to one prompt. Raises a ModelError."""
        response = await self._post(request.encode(), PREDICT, self._until(request))
        if not response.is_success:
            raise await self._failure(response)
        try:
            return _own(decode_reply(response.content), request)
        except WireError as error:
            raise _meaning(error) from error

    async def stream(self, request: GenerateRequest) -> AsyncGenerator[str | GenerateReply, None]:
        """Yield the parts of the answer to one prompt, last its reply. Raises a ModelError."""
        until = self._until(request)
        async with AsyncExitStack() as stack:
            with _translated():
                async with asyncio.timeout_at(until):
                    response = await self._send(request.encode(), PREDICT, stream=True)
                    stack.push_async_callback(response.aclose)
                    if not response.is_success:
                        await response.aread()
            if not response.is_success:
                raise await self._failure(response)
            lines = _lines(response)
            while True:
                try:
                    with _translated():
                        async with asyncio.timeout_at(until):
                            line = await anext(lines)
                    item = decode_line(line)
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

    async def _failure(self, response: httpx.Response) -> ModelError:
        """Return what an unsuccessful response means: the handler's own words, or else TorchServe's status."""
        try:
            decode_reply(response.content)
        except WireError as error:
            if error.code != "bad_reply":
                return _meaning(error)
        match response.status_code:
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
            case status:
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
        response = await self._post(b"", DESCRIBE, until)
        try:
            words = response.json() if response.is_success else None
        except ValueError:
            words = None
        if not isinstance(words, dict):
            raise ModelGarbled("the model did not describe itself")
        return words

    async def _post(self, body: bytes, headers: Mapping[str, str], until: float | None) -> httpx.Response:
        with _translated():
            async with asyncio.timeout_at(until):
                return await self._send(body, headers)

    async def _send(self, body: bytes, headers: Mapping[str, str], *, stream: bool = False) -> httpx.Response:
        """Send a prediction; once more when no connection came about, for then nothing was asked yet.

        Nothing else is repeated: what was sent may be in the model, or have been what killed it.
        """
        request = httpx.Request(
            "POST", self._predictions, content=body, headers=headers, extensions={"timeout": self._predicting}
        )
        try:
            response = await self._signed(request, self._inference_key)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            await asyncio.sleep(RECONNECT_SECONDS)
            response = await self._signed(request, self._inference_key)
        return response if stream else await _read(response)

    async def _signed(self, request: httpx.Request, key: TorchServeKey | None) -> httpx.Response:
        """Send `request` with the key; once more when it is refused and there is another by now."""
        if key is not None:
            key.sign(request)
        response = await self._transport.handle_async_request(request)
        if key is None or response.status_code != HTTPStatus.BAD_REQUEST or not key.renew(request):
            return response
        await response.aclose()
        return await self._transport.handle_async_request(request)

    async def _state(self) -> dict[str, Any]:
        """Return the management API's description of the default version. Raises ModelDown or ModelGarbled."""
        request = httpx.Request("GET", self._model, extensions={"timeout": _timeouts(MANAGEMENT_SECONDS)})
        try:
            response = await _read(await self._signed(request, self._management_key))
        except httpx.TransportError as error:
            raise ModelDown("TorchServe's management API cannot be reached") from error
        if response.status_code == 404:
            raise ModelDown(f"TorchServe has no model called {self._name}")
        if response.status_code == 400:
            raise ModelDown(KEY_REFUSED)
        if not response.is_success:
            raise ModelDown(f"TorchServe's management API answered with status {response.status_code}")
        try:
            versions = response.json()
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


def _signs_of_life() -> list[tuple[int, int, int]]:
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


@contextmanager
def _translated() -> Iterator[None]:
    """Turn what httpx and the clock raise into what it means here."""
    try:
        yield
    except (TimeoutError, httpx.ReadTimeout, httpx.WriteTimeout) as error:
        raise ModelTimeout("the model did not answer in time") from error
    except httpx.PoolTimeout as error:
        raise ModelBusy("too many requests wait for the model") from error
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise ModelDown("no connection to TorchServe comes about", reached=False) from error
    except (httpx.ReadError, httpx.RemoteProtocolError) as error:
        raise WorkerDied("the connection to TorchServe ended while it answered") from error
    except httpx.TransportError as error:
        raise ModelDown("the connection to TorchServe failed") from error


def _own(reply: GenerateReply, request: GenerateRequest) -> GenerateReply:
    """Return `reply` when it answers `request`. Raises ModelGarbled: what is another's must not be shown."""
    if reply.request_id != request.request_id:
        raise ModelGarbled("the model answered another request")
    return reply


async def _read(response: httpx.Response) -> httpx.Response:
    """Return `response` when all of it has come."""
    try:
        await response.aread()
    except BaseException:
        await response.aclose()
        raise
    return response


def _timeouts(patience: float | None) -> dict[str, float | None]:
    return httpx.Timeout(patience, connect=CONNECT_SECONDS).as_dict()


async def _lines(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """Yield the lines of a body as they come; httpx's own would also split at line ends inside of JSON texts."""
    rest = b""
    async for chunk in response.aiter_bytes():
        *whole, rest = (rest + chunk).split(b"\n")
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
