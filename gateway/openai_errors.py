"""Errors as clients of OpenAI's interface know them: one envelope, other names, hardly any 422."""

import http.client
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, Field

if TYPE_CHECKING:
    from gateway.problems import Problem

PATHS: Final = ("/v1/chat/completions", "/v1/models")
"""The addresses that speak OpenAI's language, errors included."""

_TYPES: Final = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_CODES: Final = {
    "bot-not-found": "model_not_found",
    "prompt-too-long": "context_length_exceeded",
    "content-refused": "content_filter",
}


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str = Field(examples=["there is no bot called cricket"])
    type: str = Field(examples=["invalid_request_error"])
    param: str | None = Field(examples=[None])
    code: str = Field(examples=["model_not_found"])


class Envelope(BaseModel):
    """A failure, in OpenAI's format."""

    error: ErrorDetail


def declared(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what OpenAPI shows for these failures of a route; the document itself adds the schema they refer to."""
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{Envelope.__name__}"}}}
    return {str(status): {"description": http.client.responses[status], "content": content} for status in statuses}


def status_of(problem: "Problem") -> int:
    """Return the status of `problem` in this interface, where bad input is a 400."""
    return 400 if problem.status == 422 else problem.status


def envelope(problem: "Problem") -> dict[str, Any]:
    """Return `problem` in OpenAI's envelope: message, type, the first bad parameter and a code."""
    kind = problem.type.rpartition(":")[2]
    default = "invalid_request_error" if problem.status < 500 else "server_error"
    detail = ErrorDetail(
        message=problem.detail,
        type=_TYPES.get(problem.status, default),
        param=next(iter(problem.problems), None),
        code=_CODES.get(kind, kind.replace("-", "_")),
    )
    return Envelope(error=detail).model_dump()
