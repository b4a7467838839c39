"""Connections to TorchServe, by aiohttp: sending a request over one, reading its response, and what failures mean.

What fails before a request could be sent is `ModelDown` with `reached` False, and nothing else is: whoever sends it
again must know that no worker has it. A connection that the other end closed is `WorkerDied`; one whose other end, or
the way to it, is gone `ModelDown`.
"""

import errno
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Protocol, Self

import aiohttp

from gateway.errors import ModelDown, ModelError, ModelTimeout, WorkerDied

CONNECT_SECONDS: Final = 2.0

KEEP_ALIVE_SECONDS: Final = 5.0
"""How long a connection that nobody uses is kept."""

_CUT: Final = (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH)

SocketOption = tuple[int, int, int]


class Response(Protocol):
    """The status of a response, and its body, yet to come. What reads it raises a ModelError."""

    status: int

    async def read(self) -> bytes:
        """Return all of the body, and close the response."""
        ...

    def parts(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes."""
        ...

    def close(self) -> None:
        """Let go of the connection; it is used again only when all of the response has come."""
        ...


class Connections(Protocol):
    """Sends requests and returns their responses."""

    async def send(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes = b"", patience: float | None
    ) -> Response:
        """Return the response, whose parts may be `patience` seconds apart. Raises a ModelError."""
        ...


class AiohttpConnections:
    """`Connections`, at most `max_connections`. They belong to one event loop."""

    def __init__(self, *, max_connections: int, keep: bool, socket_options: Sequence[SocketOption] = ()) -> None:
        """`keep` says whether connections are used again."""
        self._max_connections, self._keep, self._options = max_connections, keep, socket_options
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Return this."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()

    async def send(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes = b"", patience: float | None
    ) -> "AiohttpResponse":
        """Return the response, whose parts may be `patience` seconds apart. Raises a ModelError."""
        if self._session is None:  # not in __init__: it wants a running event loop
            self._session = self._open()
        try:
            response = await self._session.request(
                method,
                url,
                data=body or None,
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS, sock_read=patience),
            )
        except aiohttp.ClientError as error:
            raise _meaning(error) from error
        return AiohttpResponse(response)

    def _open(self) -> aiohttp.ClientSession:
        keeping: dict[str, Any] = {"keepalive_timeout": KEEP_ALIVE_SECONDS} if self._keep else {"force_close": True}
        connector = aiohttp.TCPConnector(limit=self._max_connections, socket_factory=self._socket, **keeping)
        return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False)

    def _socket(self, address: Any) -> socket.socket:
        family, kind, protocol, *_ = address
        made = socket.socket(family, kind, protocol)
        for option in self._options:
            made.setsockopt(*option)
        return made


class AiohttpResponse:
    """A `Response`."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.status = response.status
        self._response = response
        connection = response.connection  # None: all has come
        self._protocol = None if connection is None else connection.protocol
        self._closed = None if self._protocol is None else self._protocol.closed
        if self._closed is not None:
            self._closed.add_done_callback(self._end_if_closed)

    async def read(self) -> bytes:
        """Return all of the body, and close the response. Raises a ModelError."""
        try:
            self._end_if_closed()
            return await self._response.content.read()
        except aiohttp.ClientError as error:
            raise _meaning(error) from error
        finally:
            self.close()

    async def parts(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes. Raises a ModelError."""
        try:
            self._end_if_closed()
            async for part in self._response.content.iter_any():
                yield part
                self._end_if_closed()
        except aiohttp.ClientError as error:
            raise _meaning(error) from error

    def _end_if_closed(self, _: object = None) -> None:
        """Fail who reads on, when the connection is closed.

        aiohttp 3.14 closes it when a body in chunks stops being one, but tells nobody: a reader would wait for ever.
        """
        body = self._response.content
        if self._protocol is None or self._protocol.connected:
            return
        if not body.is_eof() and body.exception() is None:
            body.set_exception(aiohttp.ClientPayloadError("the response broke off in what is no HTTP"))

    def close(self) -> None:
        """Let go of the connection; it is used again only when all of the response has come."""
        if self._closed is not None:
            self._closed.remove_done_callback(self._end_if_closed)
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()


def _meaning(error: aiohttp.ClientError) -> ModelError:
    """Return what a failure of aiohttp's means to whoever asked."""
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return ModelDown("no connection to TorchServe comes about", reached=False)
    if isinstance(error, TimeoutError):
        return ModelTimeout("the model did not answer in time")
    if isinstance(error, aiohttp.InvalidURL) or _is_cut(error):
        return ModelDown("the connection to TorchServe failed")
    return WorkerDied("the connection to TorchServe ended while it answered")


def _is_cut(error: aiohttp.ClientError) -> bool:
    """Return whether the kernel has given up the other end. Of a body that stops aiohttp tells why in text alone."""
    if isinstance(error, aiohttp.ClientOSError):
        return error.errno in _CUT
    return isinstance(error, aiohttp.ClientPayloadError) and any(f"({number}, " in str(error) for number in _CUT)
