"""Requests that come together begin one by one, so that a probe among them need not wait for all of them.

The event loop takes what is ready in the order in which it came: of a hundred requests in one moment, each a few
milliseconds of work before the model has it, the last would wait for a third of a second.
"""

import asyncio
from collections import deque
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

PROBES: Final = frozenset({"/healthz", "/livez", "/readyz"})


class Turns:
    """ASGI middleware: in each turn of the event loop one request begins, the oldest first. Probes begin at once."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._taken = False
        """Whether this turn has its request."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and scope["path"] not in PROBES:
            await self._turn()
        await self._app(scope, receive, send)

    async def _turn(self) -> None:
        loop = asyncio.get_running_loop()
        if self._taken:
            turn = loop.create_future()
            self._waiting.append(turn)
            await turn
        else:
            self._taken = True
            loop.call_soon(self._next)

    def _next(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # its client may have left
                turn.set_result(None)
                asyncio.get_running_loop().call_soon(self._next)
                return
        self._taken = False
