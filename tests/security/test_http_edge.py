"""The edge of the gateway over real sockets: smuggled requests, floods of headers, bodies made to hurt, browsers."""

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from typing import Final

import httpx
import pytest

from gateway.app import create_app
from gateway.inference import EchoInference
from gateway.server import uvicorn_options
from gateway.settings import Settings
from gateway.store.memory import MemoryStore
from tests.gateway.conftest import count_words
from tests.gateway.serving import running

SMUGGLED: Final = b"GET /smuggled/context/x HTTP/1.1\r\nHost: localhost\r\n\r\n"
SECONDS: Final = 15
"""Far more than any answer here takes, on a busy machine too; what this finds takes minutes."""


@pytest.fixture(scope="module")
def gateway() -> Iterator[str]:
    settings = Settings(max_knowledge_characters=100_000, max_document_bytes=2_000_000)
    app = create_app(settings, store=MemoryStore(), inference=EchoInference(), count_tokens=count_words)
    with running(app, **uvicorn_options(settings)) as url:
        httpx.put(f"{url}/v1/bots/bot", json={"knowledge": "Eleven play."}).raise_for_status()
        yield url


def answer(gateway: str, request: bytes) -> bytes:
    """Return everything that comes back for these bytes until the gateway closes, or falls silent."""
    received = b""
    with socket.create_connection(("127.0.0.1", httpx.URL(gateway).port or 0), timeout=SECONDS) as connection:
        try:
            connection.sendall(request)
            while chunk := connection.recv(65_536):
                received += chunk
                connection.settimeout(0.5)
        except TimeoutError:
            assert received, "there was no answer"
        except ConnectionError:  # closed while the rest of the request was on its way
            pass
    return received


def statuses(received: bytes) -> list[int]:
    return [int(part[:3]) for part in received.split(b"HTTP/1.1 ")[1:]]


def put(headers: bytes, body: bytes) -> bytes:
    start = b"PUT /v1/bots/bot HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return start + headers + b"\r\n" + body


CHUNKED: Final = b"Transfer-Encoding: chunked\r\n"


@pytest.mark.parametrize(
    "request_sent",
    [
        put(b"Content-Length: 2\r\n" + CHUNKED, b"2\r\n{}\r\n0\r\n\r\n" + SMUGGLED),
        put(CHUNKED + b"Content-Length: 60\r\n", b"0\r\n\r\n" + SMUGGLED),
        put(b"Content-Length: 2\r\nContent-Length: 60\r\n", b"{}" + SMUGGLED),
        put(b"Content-Length: 2, 60\r\n", b"{}" + SMUGGLED),
        put(b"Content-Length: +2\r\n", b"{}" + SMUGGLED),
        put(b"Content-Length: -1\r\n", b"{}" + SMUGGLED),
        put(b"Content-Length: 0x2\r\n", b"{}" + SMUGGLED),
        put(b"Content-Length : 2\r\n", b"{}" + SMUGGLED),
        put(b"Transfer-Encoding: xchunked\r\n", b"2\r\n{}\r\n0\r\n\r\n" + SMUGGLED),
        put(b"Transfer-Encoding: chunked, identity\r\n", b"2\r\n{}\r\n0\r\n\r\n" + SMUGGLED),
        put(CHUNKED + b"Transfer-Encoding: identity\r\n", b"2\r\n{}\r\n0\r\n\r\n" + SMUGGLED),
        put(b"Transfer-Encoding: gzip, chunked\r\n", b"2\r\n{}\r\n0\r\n\r\n" + SMUGGLED),
        put(CHUNKED, b"2;\n\r\n{}\r\n0\r\n\r\n" + SMUGGLED),
        put(CHUNKED, b"-2\r\n{}\r\n0\r\n\r\n" + SMUGGLED),
        put(b"X: a\rContent-Length: 60\r\nContent-Length: 2\r\n", b"{}" + SMUGGLED),
        put(b"X: a\0b\r\nContent-Length: 2\r\n", b"{}" + SMUGGLED),
        b"GET /v1/bots HTTP/1.1\r\n\r\n" + SMUGGLED,
        b"GET /v1/bots HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n" + SMUGGLED,
        b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n" + SMUGGLED,
    ],
    ids=[
        "length and chunked",
        "chunked and length",
        "two lengths",
        "list of lengths",
        "plus",
        "minus",
        "hexadecimal",
        "blank before the colon",
        "unknown coding",
        "coding after chunked",
        "two codings",
        "coding before chunked",
        "line end in a chunk's extension",
        "negative chunk",
        "bare carriage return",
        "NUL",
        "no host",
        "two hosts",
        "tunnel",
    ],
)
def test_what_two_servers_could_read_in_two_ways_is_refused_and_the_connection_closed(
    gateway: str, request_sent: bytes
) -> None:
    received = answer(gateway, request_sent)
    assert statuses(received) == [400]
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    assert json.loads(body)["type"].startswith("urn:godel-serve:")
    assert httpx.get(f"{gateway}/v1/bots/smuggled").status_code == 404


def test_what_is_a_body_is_never_a_request(gateway: str) -> None:
    inside = b"GET /v1/bots HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED
    assert statuses(answer(gateway, inside)) == [200]
    assert httpx.get(f"{gateway}/v1/bots/smuggled").status_code == 404


def test_requests_sent_together_are_answered_one_after_the_other(gateway: str) -> None:
    asked = [
        b"GET /v1/bots/bot HTTP/1.1",
        b"GET /livez HTTP/1.1",
        put(b"Content-Length: 22\r\n", b'{"knowledge":"Twelve"}'),
    ]
    received = answer(gateway, b"\r\nHost: localhost\r\n\r\n".join(asked))
    assert statuses(received) == [200, 200, 200]
    assert received.index(b"Eleven play.") < received.index(b'{"status":"ok"}') < received.index(b"Twelve")
    httpx.put(f"{gateway}/v1/bots/bot", json={"knowledge": "Eleven play."}).raise_for_status()


def test_an_offer_of_another_protocol_is_declined_by_an_answer(gateway: str) -> None:
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n"
    said = put(offer + b"Content-Length: 23\r\n", b'{"knowledge":"Upgrade"}')
    received = answer(gateway, said + b"GET /v1/bots/bot HTTP/1.1\r\nHost: localhost\r\n" + offer + b"\r\n")
    assert statuses(received) == [200, 200]
    assert received.count(b'"knowledge":"Upgrade"') == 2
    httpx.put(f"{gateway}/v1/bots/bot", json={"knowledge": "Eleven play."}).raise_for_status()


def test_line_ends_after_an_answer_do_not_keep_a_connection() -> None:
    settings = Settings(receive_timeout=1)
    app = create_app(settings, store=MemoryStore(), inference=EchoInference(), count_tokens=count_words)
    with running(app, **uvicorn_options(settings)) as url:
        port = httpx.URL(url).port or 0
        with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as connection:
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            while not connection.recv(65_536).endswith(b'{"status":"ok"}'):
                pass
            connection.settimeout(0.1)
            started, open_still = time.monotonic(), True
            while open_still:
                assert time.monotonic() - started < SECONDS, "it is open still"
                with contextlib.suppress(TimeoutError):
                    try:
                        connection.sendall(b"\r\n")
                        open_still = connection.recv(65_536) != b""
                    except ConnectionError:
                        open_still = False


@pytest.mark.parametrize("headers", [40_000, 400_000])
def test_a_flood_of_headers_is_read_at_once_or_refused(gateway: str, headers: int) -> None:
    flood = b"".join(b"X-%d: y\r\n" % number for number in range(headers))
    started = time.monotonic()
    received = answer(gateway, b"GET /v1/bots HTTP/1.1\r\nHost: localhost\r\n" + flood + b"\r\n")
    assert statuses(received) == ([200] if headers < 100_000 else [431] if received else [])
    assert time.monotonic() - started < SECONDS


@pytest.mark.parametrize("line", [b"X: %s\r\n", b"%s"], ids=["many", "one"])
def test_a_flood_of_trailers_is_refused_and_no_trailer_is_taken_for_a_header(gateway: str, line: bytes) -> None:
    said = put(CHUNKED, b"17\r\n" + b'{"knowledge":"Trailer"}' + b"\r\n0\r\n")
    few = answer(gateway, said + b"X-Request-ID: late\r\n\r\n")
    assert statuses(few) == [200]
    assert b"x-request-id: late" not in few
    received = answer(gateway, said + b"X: " + b"".join(line % (b"y" * 10) for _ in range(200_000)))
    assert statuses(received) in ([431], [])  # no answer where the rest of the flood met a closed connection
    assert httpx.get(f"{gateway}/livez").status_code == 200


def test_a_request_line_beyond_any_message_is_refused(gateway: str) -> None:
    assert 200 not in statuses(answer(gateway, b"GET /bot/chat/" + b"a" * 1_000_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"))


ROUTES: Final = [
    ("POST", "/v1/bots"),
    ("PUT", "/v1/bots/bot"),
    ("PATCH", "/v1/bots/bot"),
    ("POST", "/v1/bots/bot/chat"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/keys"),
    ("POST", "/v1/keys/x/rotate"),
]
NAMES: Final = ",".join(f'"n{number}":1' for number in range(100_000))
BODIES: Final = {
    "nothing": b"",
    "not UTF-8": b'{"message": "\xff"}',
    "UTF-16": '{"message": "x"}'.encode("utf-16"),
    "half a character": b'{"message": "\\ud800", "knowledge": "\\ud800", "scope": "\\ud800"}',
    "deep lists": b"[" * 500_000,
    "deep objects": b'{"a":' * 200_000,
    "deep, closed": b'{"message": ' + b"[" * 90_000 + b"]" * 90_000 + b"}",
    "a long number": b'{"message": ' + b"1" * 1_000_000 + b"}",
    "a large exponent": b'{"message": 1e999999999, "parameters": {"top_p": 1e999999999}}',
    "not a number": b'{"message": NaN, "parameters": {"top_p": -Infinity}}',
    "many names": f"{{{NAMES}}}".encode(),
    "many parameters": f'{{"message": "x", "scope": "chat", "model": "bot", "parameters": {{{NAMES}}}}}'.encode(),
    "many limits": f'{{"message": "x", "scope": "chat", "limits": {{{NAMES}}}}}'.encode(),
    "a name twice": b'{"message": "a", "message": "b", "scope": "chat", "scope": "admin", "model": 1}',
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_a_body_made_to_hurt_costs_its_sender_an_answer_and_others_no_time(gateway: str, body: bytes) -> None:
    with httpx.Client(base_url=gateway, timeout=SECONDS) as client:
        for method, path in ROUTES:
            response = client.request(method, path, content=body, headers={"Content-Type": "application/json"})
            # With a name twice the last one counts, which makes a question; PATCH takes an empty change.
            assert response.status_code < 500, f"{method} {path}: {response.text[:300]}"
            assert len(response.content) < 100_000, f"{method} {path} answers with {len(response.content)} bytes"
        assert client.get("/healthz").status_code == 200


PAGE_OF_ANOTHER: Final = {
    "Origin": "https://evil.example",
    "Access-Control-Request-Method": "PUT",
    "Access-Control-Request-Headers": "content-type",
}


@pytest.mark.parametrize("path", ["/", "/v1/bots", "/v1/bots/bot", "/bot/chat/x", "/healthz", "/nowhere", "/docs"])
def test_a_browser_is_told_to_run_frame_guess_and_share_nothing(gateway: str, path: str) -> None:
    response = httpx.get(f"{gateway}{path}", headers={"Origin": PAGE_OF_ANOTHER["Origin"]})
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert ("script-src" in policy) == (path in ("/", "/docs"))
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["cache-control"] in ("no-store", "no-cache")
    assert "server" not in response.headers
    preflight = httpx.request("OPTIONS", f"{gateway}{path}", headers=PAGE_OF_ANOTHER)
    assert preflight.status_code in (404, 405)
    for headers in (response.headers, preflight.headers):
        assert not [name for name in headers if name.startswith("access-control")]


def test_a_problem_names_no_more_than_it_must(gateway: str) -> None:
    response = httpx.post(f"{gateway}/v1/bots/bot/chat", json={"message": 5, "messages": ["xylophone"] * 500})
    assert response.status_code == 422
    assert "xylophone" not in response.text
    assert len(json.loads(response.text)["problems"]) <= 20
