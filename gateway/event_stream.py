"""Server-sent events: a response that is sent while it is made, and ends when its client goes away.

The format is that of the HTML standard. Neither FastAPI's nor sse-starlette's response would do: the one commits
status 200 before anything can go wrong, the other cuts streams off when the server starts to drain.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Final

from fastapi import Request, Response
from fastapi.sse import format_sse_event
from starlette.types import Receive, Scope, Send

from gateway.disconnect import while_connected
from gateway.errors import ClientGone, GatewayError, ShuttingDown
from gateway.problems import Problem, problem_of
from gateway.request_log import log_unexpected

HEAD_START_SECONDS: Final = 5.0
"""How long a failure still gets a status of its own; after that the response starts without a first event."""

KEEP_ALIVE_SECONDS: Final = 10.0
"""Proxies close connections on which nothing moves, most of them after a minute."""

MEDIA_TYPE: Final = "text/event-stream"


def event(data: str, name: str | None = None) -> bytes:
    """Return one event on the wire."""
    return format_sse_event(data_str=data, event=name)


class EventStream(Response):
    """A response of events. Make it with `open`; it closes what makes its events, whatever happens."""

    media_type = MEDIA_TYPE

    def __init__(
        self, events: AsyncGenerator[bytes, None], first: "asyncio.Task[bytes]", failed: Callable[[Problem], bytes]
    ) -> None:
        super().__init__(headers={"X-Accel-Buffering": "no"})  # nginx would collect the parts
        del self.headers["content-length"]
        self._events, self._next, self._failed = events, first, failed
        self._under_way = False

    @classmethod
    async def open(
        cls, request: Request, events: AsyncGenerator[bytes, None], failed: Callable[[Problem], bytes]
    ) -> "EventStream":
        """Return the response that sends `events`, once the first is there or takes long.

        Raises what `events` raise before that. What they raise later is sent as `failed` spells it.
        """
        first = asyncio.ensure_future(_next(events))
        try:
            await while_connected(request, asyncio.wait({first}, timeout=HEAD_START_SECONDS))
            if first.done():
                first.result()
        except BaseException:
            await _close(events, first)
            raise
        return cls(events, first, failed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until they end or the client goes away."""
        request_id = scope["state"]["request_id"]
        try:
            with contextlib.suppress(ClientGone):  # its status is sent already
                await while_connected(Request(scope, receive), self._send(request_id, send))
        except asyncio.CancelledError:
            # The server cancels what outlives its grace. Who reads along is told, as by every other failure.
            if not self._under_way:
                raise
            last = self._failed(problem_of(ShuttingDown(), request_id))
            await send({"type": "http.response.body", "body": last})

    async def _send(self, request_id: str, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            self._under_way = True
            async for body in self._bodies(request_id):
                await send({"type": "http.response.body", "body": body, "more_body": True})
            self._under_way = False
            await send({"type": "http.response.body", "body": b""})
        finally:
            await _close(self._events, self._next)

    async def _bodies(self, request_id: str) -> AsyncGenerator[bytes, None]:
        while True:
            await asyncio.wait({self._next}, timeout=KEEP_ALIVE_SECONDS)
            if not self._next.done():
                yield b": still at it\n\n"
                continue
            try:
                body = self._next.result()
            except StopAsyncIteration:
                return
            except Exception as error:
                if not isinstance(error, GatewayError):
                    log_unexpected(error, request_id)
                yield self._failed(problem_of(error, request_id))
                return
            self._next = asyncio.ensure_future(_next(self._events))
            yield body


async def _next(events: AsyncGenerator[bytes, None]) -> bytes:
    return await anext(events)


async def _close(events: AsyncGenerator[bytes, None], pending: "asyncio.Task[bytes]") -> None:
    pending.cancel()
    await asyncio.gather(pending, return_exceptions=True)
    await events.aclose()
