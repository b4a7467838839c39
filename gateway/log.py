"""How the process logs: one readable line a record, on standard error."""

import logging.config
import time

QUIET = ("httpx", "httpcore", "sqlalchemy", "aiosqlite", "alembic", "asyncio")
"""Libraries that would log users' text, or noise, at the levels below a warning."""


def _line_in_utc() -> logging.Formatter:
    formatter = logging.Formatter(
        "%(asctime)s.%(msecs)03dZ %(levelname)-7s %(name)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S"
    )
    formatter.converter = time.gmtime
    return formatter


def configure_logging(level: str) -> None:
    """Send the gateway's and uvicorn's records to standard error from `level` on, those of libraries from warning."""
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"line": {"()": _line_in_utc}},
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
            "root": {"level": level.upper(), "handlers": ["stderr"]},
            "loggers": {name: {"level": "WARNING"} for name in QUIET},
        }
    )
