"""Around every request: its id, one line in the log, a count, a span, and no exception that gets away.

The line holds the route's template, never the path, which is users' text in the seed's endpoints. A probe that is
answered well is told at level debug alone: something asks every second, and nobody could read the rest.
"""

import asyncio
import logging
import time
import traceback
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import log
from gateway.errors import BadFraming, ContentTooLarge, ShuttingDown
from gateway.metrics import Metrics
from gateway.problems import error_response
from gateway.tracing import RequestSpan
from gateway.turns import PROBES
from handler.contract.wire import REQUEST_ID

HEADER: Final = b"x-request-id"


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


DEFAULTS: Final = _encoded(
    {
        "Cache-Control": "no-store",  # the seed's GETs change and generate
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",  # its addresses hold users' text
        # Of what is answered nothing runs, loads or is framed in a browser; the page has a policy of its own.
        "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    }
)
"""Headers of every response that does not say otherwise."""

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

logger = logging.getLogger("gateway.request")


class RequestLog:
    """ASGI middleware. Accepts `X-Request-ID` when it is harmless, makes one otherwise, returns it in any case."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0
        request_id = _request_id(dict(scope["headers"]).get(HEADER))
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        told = log.request_id.set(request_id)
        tracers = scope["app"].state.services.tracers
        span = None if tracers is None else RequestSpan(tracers, scope)

        async def labelled(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                sent = [*message.get("headers", []), (HEADER, request_id.encode())]
                said = {name for name, _ in sent}
                more = [*_encoded(state.get("rate_limit_headers", {})), *DEFAULTS]
                message["headers"] = sent + [header for header in more if header[0] not in said]
            await send(message)

        try:
            await self._app(scope, receive, labelled)
        except asyncio.CancelledError:
            # The server cancels what outlives its grace; of itself it would answer 500 and log a traceback.
            if not status:
                await error_response(ShuttingDown(), request_id, scope["path"])(scope, receive, labelled)
        except Exception as error:
            log_unexpected(error, request_id)
            if not status:
                await error_response(error, request_id, scope["path"])(scope, receive, labelled)
        finally:
            method = scope["method"] if scope["method"] in METHODS else "OTHER"
            route = getattr(scope.get("route"), "path_format", "(no route)")
            seconds = time.perf_counter() - started
            self._metrics.requested(method, route, status, seconds)
            caller = state["caller"].key_id if "caller" in state else "nobody"
            facts = {"method": method, "route": route, "status": status, "caller": caller}
            milliseconds = round(seconds * 1e3, 1)
            quiet = scope["path"] in PROBES and HTTPStatus.OK <= status < HTTPStatus.BAD_REQUEST
            logger.log(
                logging.DEBUG if quiet else logging.INFO,
                "%s %s %d %s ms caller=%s",
                *(method, route, status, milliseconds, caller),
                extra=facts | {"milliseconds": milliseconds},
            )
            log.request_id.reset(told)
            if span is not None:
                span.end(method, route, status, request_id)


class BodyLimit:
    """ASGI middleware that refuses a body of more than `limit` bytes, announced or not, with a problem.

    Nor does it take one whose length is said in two ways: a proxy before us may have believed the other one, and what
    it took for the body would be the next client's request here.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if b"content-length" in headers and b"transfer-encoding" in headers:
            error = BadFraming("the body has both a Content-Length and a Transfer-Encoding")
            response = error_response(error, scope["state"]["request_id"], scope["path"])
            response.headers["Connection"] = "close"
            await response(scope, receive, send)
            return
        announced = headers.get(b"content-length", b"0")
        if announced.isdigit() and int(announced[:20]) > self._limit:
            too_large = ContentTooLarge(f"the body has more than {self._limit} bytes")
            await error_response(too_large, scope["state"]["request_id"], scope["path"])(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit:
                raise HTTPException(413)  # the one exception that FastAPI lets through while it reads a body
            return message

        await self._app(scope, counted, send)


def _request_id(given: bytes | None) -> str:
    named = given.decode("latin-1") if given else ""
    return named if REQUEST_ID.fullmatch(named) else log.new_request_id()


def log_unexpected(error: BaseException, request_id: str) -> None:
    """Log a failure that is a mistake of ours."""
    logger.error("failed unexpectedly: %s", _without_text(error), extra={"request_id": request_id})


def _without_text(error: BaseException) -> str:
    """Return type and stack of `error` and its causes. Messages stay out: they may quote what a user wrote."""
    parts = []
    current: BaseException | None = error
    while current is not None:
        parts.append(type(current).__qualname__ + "\n" + "".join(traceback.format_tb(current.__traceback__)))
        current = current.__cause__ or current.__context__
    return "caused by ".join(parts)
