"""Connections to clients: those of the slow, the silent, the deaf and the too many end. uvicorn would keep them.

Requests that two servers could read in two ways are refused, heads and trailers have a bound.

Sending is limited as Apache's mod_reqtimeout does it: so many seconds for the head, as many for the body, and more of
them as it comes. Taking is limited by the kernel (TCP_USER_TIMEOUT), which knows what the client has taken.
"""

import asyncio
import logging
import math
import resource
import socket
import sys
from enum import Enum, auto
from typing import Any, Final, cast
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gateway.log import new_request_id
from gateway.problems import MEDIA_TYPE, make_problem

BODY_BYTES_A_SECOND: Final = 500
"""The least that a client must send of a body, once its first seconds are over."""

OWN_FILES: Final = 512
"""Files, sockets to TorchServe and to the database among them, that need room beside those of the clients."""

_LONGEST_PARSED_TARGET: Final = 65_535
"""httptools finds path and query in so many bytes; a message in the seed's address may take more."""

logger = logging.getLogger(__name__)


class _Part(Enum):
    """What of a request is on its way."""

    HEAD = auto()
    BODY = auto()


class _JoiningTransport:
    """A transport that sends what is written in one turn of the event loop as one: of a response the head and the body.

    uvicorn writes them one after the other, two calls to the kernel and two packets to the client.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._written: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Send `data` before the event loop's next turn is over."""
        if data:
            if not self._written:
                self._loop.call_soon(self.flush)
            self._written.append(data)

    def close(self) -> None:
        """Send what was written, then close the connection."""
        self.flush()
        self._transport.close()

    def flush(self) -> None:
        """Send what was written, unless nobody is there any more."""
        if self._written:
            if not self._transport.is_closing():  # uvloop's would raise
                self._transport.write(b"".join(self._written))
            self._written.clear()

    def __getattr__(self, name: str) -> Any:
        """Return what is the transport's own: what the protocol does beside sending is no business of this class."""
        return getattr(self._transport, name)


class PatientProtocol(HttpToolsProtocol):
    """HTTP/1.1 with limits on how long a request may take to arrive, and on what is no body of it.

    Make a kind of it with `patient_protocol`.
    """

    max_connections = 1
    max_head_bytes = 65_536
    receive_seconds = math.inf

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn's own
        """Begin a connection, or refuse it when there are too many."""
        super().connection_made(cast("asyncio.Transport", _JoiningTransport(transport, self.loop)))
        self._timer: asyncio.TimerHandle | None = None
        self._body_bytes = 0
        self._expect(_Part.HEAD)
        if len(self.connections) > self.max_connections:
            self._refuse(503, "too-many-connections", "too many clients are connected just now", retry_after=True)
        else:
            self._arm(self.receive_seconds)

    def data_received(self, data: bytes) -> None:
        """Take what the client sends."""
        self._unset_keepalive_if_required()
        in_body, body_bytes = self._coming is _Part.BODY, self._body_bytes
        try:
            self._parse(memoryview(data))
        except httptools.HttpParserError:
            self._refuse(400, "malformed-request", "what was sent is not one request of HTTP/1.1")
            return
        if self._coming is None and self._is_answered():  # line ends before a request, which may never come
            self._expect(_Part.HEAD)
        self._bytes += len(data)
        if self._coming is _Part.HEAD or (in_body and self._body_bytes == body_bytes):  # a head, or trailers
            self._head_bytes += len(data)
        if self._coming is None:
            self._disarm()
        elif self._head_bytes > self.max_head_bytes:
            self._refuse(431, "head-too-large", f"a request's head may have {self.max_head_bytes} bytes")
        elif self._timer is None:
            self._arm(self.receive_seconds)

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._expect(_Part.HEAD)

    def on_headers_complete(self) -> None:
        """Begin to answer. Raises ValueError for a head that another server could read in another way."""
        hosts = 0
        for name, value in self.headers:
            if name == b"host":
                hosts += 1
            elif name == b"transfer-encoding" and value.lower() != b"chunked":
                raise ValueError("the body comes in a coding that is not known here")
        if hosts != 1 and (hosts or self.parser.get_http_version() == "1.1"):
            raise ValueError("a request names one host")
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise ValueError("this is no proxy")
            return  # to `_decline` it
        target = self.url
        if len(target) <= _LONGEST_PARSED_TARGET:
            super().on_headers_complete()
        else:
            self.url = b"/"
            super().on_headers_complete()
            path, _, query = target.partition(b"?")
            self.scope |= {"path": unquote(path.decode("ascii")), "raw_path": path, "query_string": query}
        self.headers = []  # trailers are none of the request's, and nobody reads them
        self._expect(_Part.BODY)

    def on_body(self, body: bytes) -> None:
        """Take some of a body."""
        super().on_body(body)
        self._body_bytes += len(body)

    def on_message_complete(self) -> None:
        """Know that all of a request is here."""
        if not self.parser.should_upgrade():
            super().on_message_complete()
            self._expect(None)

    def on_response_complete(self) -> None:
        """Send what is left of a response: until the event loop's next turn it would wait behind other requests."""
        cast("_JoiningTransport", self.transport).flush()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the connection."""
        self._disarm()
        super().connection_lost(exc)

    def _parse(self, data: memoryview) -> None:
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                self._decline()
                data = data[upgrade.args[0] :]
            else:
                return

    def _decline(self) -> None:
        """Parse a head again without its offer of another protocol, which Java's client makes for one (HTTP/2).

        To answer as if there was none is how to decline it; but after it this parser knows no body.
        """
        start = b"%s %s HTTP/%s\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        lines = [b"%s: %s\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
        self.parser.feed_data(b"".join((start, *lines, b"\r\n")))

    def _expect(self, part: _Part | None) -> None:
        """Begin to count the time and the bytes of a part; None is for as long as the client need not send."""
        self._coming, self._since = part, self.loop.time()
        self._bytes = self._head_bytes = 0

    def _is_answered(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _arm(self, seconds: float) -> None:
        self._timer = self.loop.call_later(seconds, self._look)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        """Let go of the client when its time is over."""
        self._timer = None
        if self.transport.is_closing() or self._coming is None:
            return
        left = self._since + self.receive_seconds - self.loop.time()
        if self.flow.read_paused or (self._coming is _Part.HEAD and not self._is_answered()):
            left = self.receive_seconds  # it is us who do not read, or another request's turn
        elif self._coming is _Part.BODY:
            left += self._bytes / BODY_BYTES_A_SECOND
        if left > 0:
            self._arm(left)
        else:
            self._refuse(408, "request-timeout", "the request took too long to arrive")

    def _refuse(self, status: int, kind: str, detail: str, *, retry_after: bool = False) -> None:
        """Say why, when nothing was said yet, and close the connection."""
        logger.info("a connection was closed: %s", detail)
        if not self.pipeline and (self._is_answered() or not self.cycle.response_started):
            body = make_problem(new_request_id(), status, kind, detail).model_dump_json().encode()
            head = f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
            head += "retry-after: 1\r\n" * retry_after
            self.transport.write(STATUS_LINE[status] + head.encode() + b"\r\n" + body)
        if not self._is_answered():
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()


def patient_protocol(max_connections: int, max_head_bytes: int, receive_seconds: float) -> type[asyncio.Protocol]:
    """Return the protocol that uvicorn is to speak with every client."""
    limits = {
        "max_connections": max_connections,
        "max_head_bytes": max_head_bytes,
        "receive_seconds": receive_seconds,
    }
    return cast("type[asyncio.Protocol]", type(PatientProtocol.__name__, (PatientProtocol,), limits))


def drop_the_deaf(listener: socket.socket, seconds: float) -> None:
    """Have the kernel end connections accepted from `listener` whose client takes nothing for `seconds`. Linux only."""
    if sys.platform == "linux":
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, math.ceil(seconds * 1e3))


def room_for(connections: int) -> int:
    """Return how many connections this process can really hold, after asking for as many open files as they need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + OWN_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if soft < wanted:
            room = max(1, soft - OWN_FILES)
            logger.warning("%d connections instead of %d: no more than %d files may be open", room, connections, soft)
            return room
    return connections
