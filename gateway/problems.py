"""Errors on the wire: `application/problem+json` (RFC 9457) for everything that goes wrong."""

import http.client
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from gateway import openai_errors
from gateway.errors import GatewayError, RateLimited, Unauthenticated, retry_after, status_of
from gateway.limits import Standing

MEDIA_TYPE = "application/problem+json"
URN = "urn:godel-serve:"


def declared(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what OpenAPI shows for these failures of a route; the document itself adds the schema they refer to."""
    content = {MEDIA_TYPE: {"schema": {"$ref": f"#/components/schemas/{Problem.__name__}"}}}
    return {str(status): {"description": _MEANINGS[status], "content": content} for status in statuses}


class Problem(BaseModel):
    """What went wrong with a request (RFC 9457)."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    type: str = Field(examples=["urn:godel-serve:bot-not-found"])
    """What kind of problem it is; does not change between releases."""
    title: str = Field(examples=["Not Found"])
    """The meaning of the status."""
    status: int = Field(examples=[404])
    """The HTTP status."""
    detail: str = Field(examples=["there is no bot called cricket"])
    """What happened, for a person."""
    problems: dict[str, str] = Field(default={}, examples=[{}])
    """Each bad value of the request, and what is wrong with it."""
    request_id: str = Field(examples=["0f8fad5bd9cb469fa16570867728950e"])
    """Quote it when you ask about this failure; the logs know it."""


def make_problem(
    request_id: str, status: int, kind: str, detail: str, problems: Mapping[str, str] | None = None
) -> Problem:
    """Return one problem. Any text is safe to pass: what UTF-8 cannot hold is replaced."""
    return Problem(
        type=URN + kind,
        title=http.client.responses.get(status, "Client Closed Request"),
        status=status,
        detail=_encodable(detail),
        problems={_encodable(name): _encodable(text) for name, text in (problems or {}).items()},
        request_id=request_id,
    )


def problem_of(error: Exception, request_id: str) -> Problem:
    """Return the problem that `error` is to a client; of one that is none of ours it says nothing."""
    if not isinstance(error, GatewayError):
        return make_problem(request_id, 500, "internal-error", "something broke; it has been logged")
    kind = re.sub(r"(?<=.)(?=[A-Z])", "-", type(error).__name__).lower()
    return make_problem(request_id, status_of(error), kind, error.detail, error.problems)


def respond(problem: Problem, path: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return the response for `problem`, in the format of errors that clients of `path` know."""
    status, media_type, content = problem.status, MEDIA_TYPE, problem.model_dump()
    if path.startswith(openai_errors.PATHS):
        status, media_type, content = (
            openai_errors.status_of(problem),
            "application/json",
            openai_errors.envelope(problem),
        )
    body = json.dumps(content, ensure_ascii=False).encode()
    return Response(body, status_code=status, media_type=media_type, headers=dict(headers or {}))


def error_response(error: Exception, request_id: str, path: str) -> Response:
    """Return the response for `error`, `Retry-After` included where a retry makes sense, for 401 the way to sign in."""
    headers = {}
    if isinstance(error, GatewayError) and (retry := retry_after(error)) is not None:
        headers["Retry-After"] = str(retry)
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = 'Bearer realm="godel-serve"'
    if isinstance(error, RateLimited):
        headers |= rate_limit_headers(error.standing)
    return respond(problem_of(error, request_id), path, headers)


def rate_limit_headers(standing: Standing) -> dict[str, str]:
    """Return how a limit stands, by draft-ietf-httpapi-ratelimit-headers-06: size, rest, seconds until all is back."""
    return {
        "RateLimit-Limit": str(standing.limit),
        "RateLimit-Remaining": str(standing.remaining),
        "RateLimit-Reset": str(standing.reset_seconds),
    }


def install(app: FastAPI, refused: Callable[[GatewayError], None]) -> None:
    """Make `app` answer with problems wherever FastAPI or Starlette would answer in formats of their own.

    `refused` is told of each.
    """

    async def ours(request: Request, error: GatewayError) -> Response:
        refused(error)
        return error_response(error, request.state.request_id, request.url.path)

    async def invalid(request: Request, error: RequestValidationError) -> Response:
        if any(item["type"] == "json_invalid" for item in error.errors()):
            problem = make_problem(request.state.request_id, 400, "invalid-json", "the body is not JSON")
        else:
            problems = _named(error.errors())
            if "body" in problems and not request.headers.get("content-type", "").startswith("application/json"):
                problems["body"] = "is not taken for JSON: send it with `Content-Type: application/json`"
            detail = "; ".join(f"{name}: {text}" for name, text in problems.items())
            problem = make_problem(request.state.request_id, 422, "invalid-input", detail, problems)
        return respond(problem, request.url.path)

    async def http(request: Request, error: HTTPException) -> Response:
        kind, detail = _HTTP_KINDS.get(error.status_code, ("http-error", error.detail))
        problem = make_problem(request.state.request_id, error.status_code, kind, detail)
        return respond(problem, request.url.path, error.headers)

    # Starlette types a handler for Exception only, though it calls each with its own kind.
    app.add_exception_handler(GatewayError, ours)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, invalid)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, http)  # type: ignore[arg-type]


_MEANINGS = {
    400: "The body is not JSON.",
    401: "No key was sent, or none that is valid.",
    403: "The key is for other things, or for other bots.",
    404: "There is no such bot, session, key or deployment.",
    409: "There is a bot of that name already; it has as many sessions, or the session as many messages, as there may"
    " be; no keys are asked for, so none are made; or the shares of deployments"
    " cannot be changed so, as they are now.",
    412: "The bot is not, or no longer, as the condition says.",
    413: "The body is larger than any that is taken.",
    415: "The document is of a kind that cannot be read.",
    422: "A value breaks a rule; `problems` names each.",
    429: "The key or the bot has had its share; `Retry-After` says when there is more.",
    502: "The model answered what nobody understands.",
    503: "The model, or the database, cannot answer just now; `Retry-After` says when to try again.",
    504: "The model did not answer in time.",
}

_HTTP_KINDS = {
    400: ("invalid-json", "the body cannot be read as JSON in UTF-8"),
    404: ("no-such-route", "there is nothing at this address; /docs lists what there is"),
    413: ("content-too-large", "the body is larger than any that this address takes"),
    405: ("method-not-allowed", "this address does not take this method; the Allow header lists those it takes"),
}


def _named(errors: Sequence[Any]) -> dict[str, str]:
    """Return pydantic's errors by the name of the bad value: `("body", "top", 1)` becomes `top.1`."""
    named: dict[str, str] = {}
    for item in errors:
        place = [str(part) for part in item["loc"]]
        text = "is no field of this request" if item["type"] == "extra_forbidden" else str(item["msg"])
        named[".".join(place[1:]) or place[0]] = text
    return named


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
