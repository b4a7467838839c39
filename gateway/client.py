"""A client of the gateway's HTTP interface, as the command line needs it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote, urlsplit

import httpx

from gateway.documents import MEDIA_TYPES, SUFFIXES
from gateway.loopback import is_loopback

CONNECT_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 120.0
"""Longer than any answer takes: the gateway has a deadline of its own, and says so."""

CHUNK_BYTES: Final = 64 * 1024

REMEDIES: Final = {
    "urn:godel-serve:bot-not-found": "`godel bots list` shows those there are",
    "urn:godel-serve:session-not-found": "begin another conversation",
    "urn:godel-serve:key-not-found": "`godel keys list` shows those there are",
    "urn:godel-serve:deployment-not-found": "`godel deploy list` shows those there are",
}
"""What to do about a problem here, by its type: the gateway says it in requests, after a semicolon."""


class CallFailed(Exception):  # noqa: N818 - says what happened
    """The gateway refused, or is not there; the message is for a person."""


class GatewayClient:
    """Calls one gateway. Every method raises CallFailed. Use it in a `with`."""

    def __init__(self, url: str, key: str | None, transport: httpx.BaseTransport | None = None) -> None:
        self._url = url
        if key and not (key.isascii() and key.isprintable()):  # the errors of libraries would show it
            raise CallFailed("the key (GODEL_API_KEY) holds characters that no key has")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        timeout = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
        try:
            self._client = httpx.Client(
                base_url=url,
                headers=headers,
                timeout=timeout,
                transport=transport,
                trust_env=not is_loopback(urlsplit(url).hostname or ""),  # a proxy cannot reach this machine's own
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise CallFailed(f"cannot call {url}: {error}") from error

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close its connections."""
        self._client.close()

    def call(self, method: str, *path: str, **options: Any) -> Any:
        """Send a request to `/v1/` and the segments of `path`; return what the reply's JSON says, None without one."""
        try:
            response = self._client.request(method, _address(path), **options)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        _check(response)
        return response.json() if response.content else None

    def pages(self, name: str, *path: str) -> Iterator[dict[str, Any]]:
        """Yield the items called `name` of every page of a list."""
        after: str | None = ""
        while after is not None:
            page = self.call("GET", *path, params={"limit": 200, "after": after})
            yield from page[name]
            after = page["next_after"]

    def upload(self, bot_id: str, file: Path, progress: Callable[[int, int], None]) -> dict[str, Any]:
        """Make the text of `file` what the bot knows; tell `progress` how many bytes of how many are sent."""
        kind = SUFFIXES.get(file.suffix.lower())
        media_type = next((name for name, its in MEDIA_TYPES.items() if its == kind), "application/octet-stream")
        try:
            content = file.read_bytes()
        except OSError as error:
            raise CallFailed(f"{file} cannot be read: {error.strerror}") from error

        def chunks() -> Iterator[bytes]:
            for start in range(0, len(content), CHUNK_BYTES):
                yield content[start : start + CHUNK_BYTES]
                progress(min(start + CHUNK_BYTES, len(content)), len(content))

        headers = {"Content-Type": media_type, "Content-Length": str(len(content))}
        measured: dict[str, Any] = self.call("PUT", "bots", bot_id, "knowledge", content=chunks(), headers=headers)
        return measured

    def chat(self, bot_id: str, message: str, session_id: str | None = None) -> Iterator[str | dict[str, Any]]:
        """Yield the bot's answer in parts as they are made, last the whole reply."""
        said = {"message": message, "session_id": session_id, "stream": True}
        try:
            with self._client.stream("POST", _address(("bots", bot_id, "chat")), json=said) as response:
                if not response.is_success:
                    response.read()
                    _check(response)
                for name, data in _events(response):
                    if name == "part":
                        yield data["text"]
                    elif name == "answer":
                        yield data
                        return
                    elif name == "problem":
                        raise CallFailed(_advised(data))
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        raise CallFailed("the answer stopped before its end")

    def _unreachable(self, error: httpx.HTTPError) -> CallFailed:
        if isinstance(error, httpx.TimeoutException):
            return CallFailed(f"{self._url} did not answer in time")
        return CallFailed(f"{self._url} cannot be reached ({error}): start it with `make serve`, or set GODEL_URL")


def _address(path: tuple[str, ...]) -> str:
    return "/v1/" + "/".join(quote(segment, safe="") for segment in path)


def _check(response: httpx.Response) -> None:
    if response.is_success:
        return
    try:
        detail = _advised(response.json())
    except (ValueError, KeyError, TypeError):
        detail = f"{response.url} answered with status {response.status_code}: is that a godel-serve gateway?"
    if response.status_code == 401:
        detail += " (here: GODEL_API_KEY)"
    raise CallFailed(detail)


def _advised(problem: Any) -> str:
    """Return what was wrong, and what to do about it here. Raises KeyError and TypeError for what is no problem."""
    detail = str(problem["detail"])
    remedy = REMEDIES.get(problem.get("type"))
    return f"{detail.partition('; ')[0]}; {remedy}" if remedy else detail


def _events(response: httpx.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and data of each server-sent event; httpx's own lines would also end inside of JSON texts."""
    rest = b""
    for chunk in response.iter_bytes():
        *blocks, rest = (rest + chunk).split(b"\n\n")
        for block in blocks:
            fields = dict(line.split(b": ", 1) for line in block.split(b"\n") if line and not line.startswith(b":"))
            if b"event" in fields and b"data" in fields:
                yield fields[b"event"].decode(), json.loads(fields[b"data"])
