"""Who may do what: the one table from route to what its caller needs, and the route that asks for it.

It is asked before the body is read: whoever may not do a thing cannot make us read megabytes first.
"""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from gateway.errors import ForeignOrigin
from gateway.keys import Caller, Scope
from gateway.loopback import is_loopback

if TYPE_CHECKING:
    from gateway.services import Services


@dataclass(frozen=True, slots=True)
class Need:
    """What a caller needs. The bot is that of the address; a route whose body names it asks `Caller.check` itself."""

    scope: Scope
    every_bot: bool = False
    """Whether a key that is bound to some bots is not enough."""


NEEDS: Final[dict[str, Need | None]] = {
    "GET /": None,
    "GET /docs": None,
    "GET /static/{name}": None,
    "GET /healthz": None,
    "GET /livez": None,
    "GET /readyz": None,
    "GET /metrics": Need("chat", every_bot=True),  # it names bots
    "GET /v1/model": Need("chat"),
    "GET /v1/bots": Need("chat"),  # shows those that the key is for
    "POST /v1/bots": Need("edit", every_bot=True),
    "GET /v1/bots/{bot_id}": Need("edit"),  # shows the knowledge
    "PUT /v1/bots/{bot_id}": Need("edit"),
    "PATCH /v1/bots/{bot_id}": Need("edit"),
    "DELETE /v1/bots/{bot_id}": Need("edit"),
    "GET /v1/bots/{bot_id}/knowledge": Need("edit"),
    "PUT /v1/bots/{bot_id}/knowledge": Need("edit"),
    "POST /v1/bots/{bot_id}/sessions": Need("chat"),
    "GET /v1/bots/{bot_id}/sessions": Need("edit"),  # shows everybody's
    "GET /v1/bots/{bot_id}/sessions/{session_id}": Need("chat"),
    "DELETE /v1/bots/{bot_id}/sessions/{session_id}": Need("chat"),
    "POST /v1/bots/{bot_id}/chat": Need("chat"),
    "GET /v1/models": Need("chat"),
    "GET /v1/models/{model}": Need("chat"),
    "POST /v1/chat/completions": Need("chat"),
    "POST /v1/keys": Need("admin"),
    "GET /v1/keys": Need("admin"),
    "GET /v1/keys/{key_id}": Need("admin"),
    "DELETE /v1/keys/{key_id}": Need("admin"),
    "POST /v1/keys/{key_id}/rotate": Need("admin"),
    "GET /v1/deployments": Need("admin"),  # shows addresses inside
    "GET /v1/deployments/{name}": Need("admin"),
    "PUT /v1/deployments/{name}": Need("admin"),
    "PUT /v1/deployments/{name}/weight": Need("admin"),
    "POST /v1/deployments/rollback": Need("admin"),
    "DELETE /v1/deployments/{name}": Need("admin"),
    "GET /{bot_id}/context/{message}": Need("edit"),
    "GET /{bot_id}/chat/{message}": Need("chat"),
}
"""None: open to everybody. The application refuses to start with a route that is not here."""


class GuardedRoute(APIRoute):
    """A route that finds out who calls, and answers 401 or 403 to whom it is not for."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, guarded."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            need = NEEDS[f"{request.method} {self.path_format}"]
            if need is not None:
                caller = await _caller(request)
                request.state.caller = caller
                bot_id = request.path_params.get("bot_id", request.path_params.get("model"))
                caller.check(need.scope, bot_id=bot_id, every_bot=need.every_bot)
            return await handle(request)

        return guarded


class GuardedRouter(APIRouter):
    """A router of such routes. Generated clients call what they ask as its function here is called."""

    def __init__(
        self, *, prefix: str = "", tags: list[str | Enum] | None = None, include_in_schema: bool = True
    ) -> None:
        super().__init__(
            prefix=prefix,
            tags=tags,
            include_in_schema=include_in_schema,
            route_class=GuardedRoute,
            generate_unique_id_function=lambda route: route.name,
        )


async def _caller(request: Request) -> Caller:
    services: Services = request.app.state.services
    if not services.keys.required:
        _check_local(request)
    kind, _, bearer = request.headers.get("authorization", "").partition(" ")
    given = bearer.strip() if kind.lower() == "bearer" else request.headers.get("x-api-key")
    return await services.keys.identify(given)


def _check_local(request: Request) -> None:
    """Raise ForeignOrigin when a page of somebody else's may have made a browser of this machine ask.

    Such a page reaches loopback by a name of its own (DNS rebinding), which shows in `Host`, or by a link or a form,
    of which browsers say that it is cross-site. Without keys nothing else would be in its way.
    """
    host = request.headers.get("host", "").lower()
    name = host.partition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    if not is_loopback(name):
        raise ForeignOrigin("without keys only this machine may ask, as localhost or 127.0.0.1: set GODEL_ADMIN_KEY")
    if request.headers.get("sec-fetch-site") == "cross-site":
        raise ForeignOrigin("without keys no page of another site may ask: set GODEL_ADMIN_KEY")
