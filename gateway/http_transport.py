"""httpx's way to a server, over aiohttp's connections: these take a fifth of the processor time of its own.

What goes wrong keeps its meaning: `httpx.ConnectError` and `ConnectTimeout` say that nothing was sent, and nothing else
does; `ReadError` says that the other end closed the connection, `NetworkError` that it, or the way to it, is gone.
"""

import errno
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import aiohttp
import httpx

KEEP_ALIVE_SECONDS: Final = 5.0
"""How long a connection that nobody uses is kept."""

_CUT: Final = (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH)

SocketOption = tuple[int, int, int]


class AiohttpTransport(httpx.AsyncBaseTransport):
    """Sends requests, whose bodies are short, over at most `max_connections`. Belongs to one event loop."""

    def __init__(self, *, max_connections: int, keep: bool, socket_options: Sequence[SocketOption] = ()) -> None:
        """`keep` says whether connections are used again."""
        self._max_connections, self._keep, self._options = max_connections, keep, socket_options
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Return the response, its body yet to come. Raises a httpx.TransportError."""
        if self._session is None:  # not in __init__: it wants a running event loop
            self._session = self._open()
        timeout = request.extensions.get("timeout", {})
        with _translated(request):
            response = await self._session.request(
                request.method,
                str(request.url),
                data=await request.aread() or None,
                headers=[item for item in request.headers.multi_items() if item[0] != "connection"],  # aiohttp's to say
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(sock_connect=timeout.get("connect"), sock_read=timeout.get("read")),
            )
        return httpx.Response(response.status, headers=response.raw_headers, stream=_Body(response, request))

    async def aclose(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        keeping: dict[str, Any] = {"keepalive_timeout": KEEP_ALIVE_SECONDS} if self._keep else {"force_close": True}
        connector = aiohttp.TCPConnector(limit=self._max_connections, socket_factory=self._socket, **keeping)
        return aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False, trust_env=False
        )

    def _socket(self, address: Any) -> socket.socket:
        family, kind, protocol, *_ = address
        made = socket.socket(family, kind, protocol)
        for option in self._options:
            made.setsockopt(*option)
        return made


class _Body(httpx.AsyncByteStream):
    """What comes of a response, as it comes."""

    def __init__(self, response: aiohttp.ClientResponse, request: httpx.Request) -> None:
        self._response, self._request = response, request
        self._protocol = None if response.connection is None else response.connection.protocol  # None: all has come
        self._closed = None if self._protocol is None else self._protocol.closed
        if self._closed is not None:
            self._closed.add_done_callback(self._end_if_closed)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _translated(self._request):
            self._end_if_closed()
            async for chunk in self._response.content.iter_any():
                yield chunk
                self._end_if_closed()

    def _end_if_closed(self, _: object = None) -> None:
        """Fail who reads on, when the connection is closed.

        aiohttp 3.14 closes it when a body in chunks stops being one, but tells nobody: a reader would wait for ever.
        """
        body = self._response.content
        if self._protocol is None or self._protocol.connected:
            return
        if not body.is_eof() and body.exception() is None:
            body.set_exception(aiohttp.ClientPayloadError("the response broke off in what is no HTTP"))

    async def aclose(self) -> None:
        """Let go of the connection; it is used again only when all of the response has come."""
        if self._closed is not None:
            self._closed.remove_done_callback(self._end_if_closed)
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()


@contextmanager
def _translated(request: httpx.Request) -> Iterator[None]:
    """Turn what aiohttp raises into what httpx would."""
    try:
        yield
    except aiohttp.ClientConnectorError as error:
        raise httpx.ConnectError(str(error), request=request) from error
    except aiohttp.ConnectionTimeoutError as error:
        raise httpx.ConnectTimeout(str(error), request=request) from error
    except aiohttp.ServerTimeoutError as error:
        raise httpx.ReadTimeout(str(error), request=request) from error
    except aiohttp.InvalidURL as error:
        raise httpx.UnsupportedProtocol(str(error), request=request) from error
    except aiohttp.ClientError as error:
        kind = httpx.NetworkError if _is_cut(error) else httpx.ReadError
        raise kind(str(error), request=request) from error


def _is_cut(error: aiohttp.ClientError) -> bool:
    """Return whether the kernel has given up the other end. Of a body that stops aiohttp tells why in text alone."""
    if isinstance(error, aiohttp.ClientOSError):
        return error.errno in _CUT
    return isinstance(error, aiohttp.ClientPayloadError) and any(f"({number}, " in str(error) for number in _CUT)
