"""Clients that are slow, silent, deaf or too many: their connections end. uvicorn by itself would keep them for ever.

Sending is limited as Apache's mod_reqtimeout does it: so many seconds for the head, as many for the body, and more of
them as it comes. Taking is limited by the kernel (TCP_USER_TIMEOUT), which knows what the client has taken.
"""

import asyncio
import logging
import math
import resource
import socket
import sys
import uuid
from http import HTTPStatus
from typing import Any, Final, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from gateway.problems import MEDIA_TYPE, make_problem

BODY_BYTES_A_SECOND: Final = 500
"""The least that a client must send of a body, once its first seconds are over."""

OWN_FILES: Final = 512
"""Files, sockets to TorchServe and to the database among them, that need room beside those of the clients."""

logger = logging.getLogger(__name__)


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
        """Send what was written."""
        if self._written:
            self._transport.write(b"".join(self._written))
            self._written.clear()

    def __getattr__(self, name: str) -> Any:
        """Return what is the transport's own: what the protocol does beside sending is no business of this class."""
        return getattr(self._transport, name)


class PatientProtocol(H11Protocol):
    """HTTP/1.1 with limits on how long a request may take to arrive. Make a kind of it with `patient_protocol`."""

    max_connections = 1
    receive_seconds = math.inf

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn's own
        """Begin a connection, or refuse it when there are too many."""
        super().connection_made(cast("asyncio.Transport", _JoiningTransport(transport, self.loop)))
        self._timer: asyncio.TimerHandle | None = None
        self._since = self.loop.time()
        self._bytes = 0
        self._state: Any = h11.IDLE
        if len(self.connections) > self.max_connections:
            self._refuse(503, "too-many-connections", "too many clients are connected just now", retry_after=True)
        else:
            self._arm(self.receive_seconds)

    def data_received(self, data: bytes) -> None:
        """Take what the client sends."""
        super().data_received(data)
        state = self.conn.their_state
        if state is not self._state:
            self._state, self._since, self._bytes = state, self.loop.time(), 0
        self._bytes += len(data)
        if not self._due():
            self._disarm()
        elif self._timer is None:
            self._since = self.loop.time()
            self._arm(self.receive_seconds)

    def on_response_complete(self) -> None:
        """Send what is left of a response: until the event loop's next turn it would wait behind other requests."""
        cast("_JoiningTransport", self.transport).flush()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the connection."""
        self._disarm()
        super().connection_lost(exc)

    def _due(self) -> bool:
        """Return whether it is the client's turn to send: the rest of a head, or of a body."""
        if self.conn.their_state is h11.IDLE:
            return self.cycle is None or bool(self.conn.trailing_data[0])
        return self.conn.their_state is h11.SEND_BODY

    def _arm(self, seconds: float) -> None:
        self._timer = self.loop.call_later(seconds, self._look)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        """Let go of the client when its time is over."""
        self._timer = None
        if self.transport.is_closing() or not self._due():
            return
        left = self._since + self.receive_seconds - self.loop.time()
        if self.conn.their_state is h11.SEND_BODY:
            if self.flow.read_paused:  # it is us who do not read
                left = self.receive_seconds
            else:
                left += self._bytes / BODY_BYTES_A_SECOND
        if left > 0:
            self._arm(left)
        else:
            self._refuse(408, "request-timeout", "the request took too long to arrive")

    def _refuse(self, status: int, kind: str, detail: str, *, retry_after: bool = False) -> None:
        """Say why, when nothing was said yet, and close the connection."""
        logger.info("a connection was closed: %s", detail)
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = make_problem(uuid.uuid4().hex, status, kind, detail).model_dump_json().encode()
            headers = [("content-type", MEDIA_TYPE), ("content-length", str(len(body))), ("connection", "close")]
            headers += [("retry-after", "1")] * retry_after
            head = h11.Response(status_code=status, headers=headers, reason=HTTPStatus(status).phrase)
            for event in (head, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def patient_protocol(max_connections: int, receive_seconds: float) -> type[asyncio.Protocol]:
    """Return the protocol that uvicorn is to speak with every client."""
    limits = {"max_connections": max_connections, "receive_seconds": receive_seconds}
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
