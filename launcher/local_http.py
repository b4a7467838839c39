"""Requests to what we started ourselves: never by way of a proxy, which for this machine's loopback is none."""

import urllib.request
from http.client import HTTPResponse
from typing import Final, cast

_OPENER: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def ask(request: str | urllib.request.Request, *, seconds: float) -> HTTPResponse:
    """Return the response, which is the caller's to close. Raises OSError as urllib does, HTTPError among others."""
    return cast("HTTPResponse", _OPENER.open(request, timeout=seconds))
