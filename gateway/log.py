"""How the process logs, on standard error: a readable line a record, or an object of JSON. Never a user's text."""

import logging.config
import secrets
import time
from contextvars import ContextVar
from typing import Literal

from pythonjsonlogger.json import JsonFormatter

QUIET = ("httpx", "httpcore", "sqlalchemy", "aiohttp", "alembic", "asyncio", "redis", "limits")
"""Libraries that would log users' text, or noise, at the levels below a warning."""

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The request that is being served; it stands in every line that is logged meanwhile."""


def new_request_id() -> str:
    """Return an id for a request that brings none: 128 random bits."""
    return secrets.token_hex(16)


class _WithRequest(logging.Filter):
    """Writes the request's id on every record."""

    def filter(self, record: logging.LogRecord) -> bool:
        known = getattr(record, "request_id", None) or request_id.get()
        if known is not None:
            record.request_id = known
        return True


class _Line(logging.Formatter):
    """One record as a line that people read."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        known = getattr(record, "request_id", None)
        return super().formatMessage(record) + ("" if known is None else f" request_id={known}")


def _line() -> logging.Formatter:
    formatter = _Line("%(asctime)s.%(msecs)03dZ %(levelname)-7s %(name)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    return formatter


def _json() -> logging.Formatter:
    names = {"levelname": "level", "name": "logger"}
    return JsonFormatter("%(levelname)s %(name)s %(message)s", rename_fields=names, timestamp="time")


def configure_logging(level: str, style: Literal["text", "json"] = "text") -> None:
    """Send the gateway's and uvicorn's records to standard error from `level` on, those of libraries from warning."""
    # No line tells them, and each record would look them up (Python's Logging HOWTO, "Optimization").
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # the file and line of the call
    handler = {"class": "logging.StreamHandler", "formatter": style, "filters": ["request"]}
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "filters": {"request": {"()": _WithRequest}},
            "formatters": {"text": {"()": _line}, "json": {"()": _json}},
            "handlers": {"stderr": handler},
            "root": {"level": level.upper(), "handlers": ["stderr"]},
            "loggers": {name: {"level": "WARNING"} for name in QUIET},
        }
    )
