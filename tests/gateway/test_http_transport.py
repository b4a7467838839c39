"""httpx over aiohttp's connections: what is sent, what is kept open, and what each failure is called."""

import asyncio
import contextlib
import errno
import gc
import socket
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest

from gateway.http_transport import AiohttpTransport

pytestmark = pytest.mark.anyio

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

OK = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok"


class Server:
    """Answers every request in the bytes of `answer`, and keeps what was sent to it."""

    def __init__(self, answer: bytes = OK, *, then_close: bool = False) -> None:
        self.answer, self.then_close = answer, then_close
        self.connections = 0
        self.heads: list[str] = []
        self.bodies: list[bytes] = []
        self.left = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = head.partition("content-length: ")[2].partition("\r\n")[0]
                self.heads.append(head)
                self.bodies.append(await reader.readexactly(int(length or 0)))
                writer.write(self.answer)
                await writer.drain()
                if self.then_close:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            self.left.set()
        finally:
            writer.close()


@asynccontextmanager
async def asking(server: Serve, *, keep: bool = True, patience: float = 5) -> AsyncIterator[httpx.AsyncClient]:
    listening = await asyncio.start_server(server, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    transport = AiohttpTransport(max_connections=4, keep=keep, socket_options=options)
    async with httpx.AsyncClient(transport=transport, base_url=f"http://127.0.0.1:{port}", timeout=patience) as client:
        yield client
    listening.close()


async def test_a_request_arrives_as_it_is_and_its_connection_is_used_again() -> None:
    server = Server()
    async with asking(server) as client:
        for _ in range(3):
            response = await client.post("/a%20b?c=d", content=b"\x00body", headers={"X-Own": "1"})
            assert (response.status_code, response.text, response.headers["content-type"]) == (200, "ok", "text/plain")
    assert server.heads[0].startswith("post /a%20b?c=d http/1.1\r\n")
    assert "\r\nx-own: 1\r\n" in server.heads[0]
    assert server.bodies == [b"\x00body"] * 3
    assert server.connections == 1


async def test_the_end_of_a_transport_is_that_of_its_connections() -> None:
    server = Server()
    async with asking(server) as client:
        assert (await client.get("/")).text == "ok"
        assert not server.left.is_set()
    async with asyncio.timeout(5):
        await server.left.wait()


async def test_a_connection_that_is_not_to_be_kept_is_said_to_be_and_closed() -> None:
    server = Server()
    async with asking(server, keep=False) as client:
        for _ in range(3):
            assert (await client.get("/")).text == "ok"
    assert server.connections == 3
    assert all("\r\nconnection: close\r\n" in head for head in server.heads)


async def test_redirects_are_the_callers_affair() -> None:
    moved = b"HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n"
    server = Server(moved)
    async with asking(server) as client:
        assert (await client.get("/")).status_code == 302
    assert len(server.heads) == 1


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (b"", httpx.ReadError),
        (b"HTTP/1.1 200 OK\r\ncontent-le", httpx.ReadError),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", httpx.ReadError),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n", httpx.ReadError),
        (b"\x00\x01 no HTTP\r\n\r\n", httpx.ReadError),
    ],
)
async def test_what_fails_after_it_was_sent_is_never_called_a_failure_to_connect(
    answer: bytes, failure: type[httpx.TransportError]
) -> None:
    server = Server(answer, then_close=True)
    async with asking(server) as client:
        with pytest.raises(failure):
            await client.post("/", content=b"x")
    assert len(server.bodies) == 1


@pytest.mark.parametrize("waits", [True, False], ids=["while-it-is-waited-for", "before-it-is-waited-for"])
async def test_a_body_that_turns_into_rubbish_fails_for_who_waits_for_more_of_it(waits: bool) -> None:
    read, gone = asyncio.Event(), asyncio.Event()

    async def turn_into_rubbish(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nbegun\r\n")
        await read.wait()
        writer.write(b"no chunk\r\n\r\n")
        await reader.read()
        gone.set()
        writer.close()

    async with (
        asking(turn_into_rubbish, patience=60) as client,
        client.stream("GET", "/") as response,
        asyncio.timeout(5),
    ):
        parts = response.aiter_bytes()
        assert await anext(parts) == b"begun"
        read.set()
        if not waits:
            await gone.wait()
        with pytest.raises(httpx.ReadError):
            await anext(parts)


async def test_a_connection_that_is_kept_does_not_keep_the_bodies_it_brought() -> None:
    begun, connections = asyncio.Event(), []

    async def answer_in_two_parts(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                await begun.wait()
                begun.clear()
                writer.write(b"2\r\nok\r\n0\r\n\r\n")
        writer.close()

    listening = await asyncio.start_server(answer_in_two_parts, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/"
    bodies = []
    async with AiohttpTransport(max_connections=4, keep=True) as transport, asyncio.timeout(5):
        for _ in range(3):
            response = await transport.handle_async_request(httpx.Request("GET", url))
            begun.set()
            assert await response.aread() == b"ok"
            bodies.append(weakref.ref(response.stream))
        del response
        gc.collect()
        assert [body() for body in bodies] == [None] * 3
    assert len(connections) == 1
    listening.close()


class Cut(socket.socket):
    """A socket whose other end has not been heard of for too long, once something comes after `heard` bytes."""

    heard = 0

    def recv(self, size: int, *flags: int) -> bytes:
        if self.heard <= 0:
            raise TimeoutError(errno.ETIMEDOUT, "Connection timed out")
        data = super().recv(min(size, self.heard), *flags)
        self.heard -= len(data)
        return data


@pytest.mark.parametrize("heard", [0, 20, 40], ids=["nothing", "half-a-head", "half-a-body"])
async def test_a_machine_that_is_gone_is_not_a_connection_that_was_closed(
    monkeypatch: pytest.MonkeyPatch, heard: int
) -> None:
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf and half"
    monkeypatch.setattr(Cut, "heard", heard)
    monkeypatch.setattr(AiohttpTransport, "_socket", lambda _, address: Cut(*address[:3]))
    async with asking(Server(answer)) as client:
        with pytest.raises(httpx.NetworkError) as raised:
            await client.post("/", content=b"x")
    assert type(raised.value) is httpx.NetworkError


async def test_nobody_listening_is_a_failure_to_connect_and_silence_a_timeout() -> None:
    transport = AiohttpTransport(max_connections=4, keep=True)
    async with httpx.AsyncClient(transport=transport) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get("http://127.0.0.1:1/")
        with pytest.raises(httpx.ConnectError):
            await client.get("http://nosuch.invalid/")
    async with asking(Server(b""), patience=0.05) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.get("/")


async def test_a_response_that_is_not_read_to_its_end_closes_its_connection() -> None:
    server = Server(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nbegun")
    async with asking(server) as client:
        async with client.stream("GET", "/") as response:
            assert await anext(response.aiter_bytes()) == b"begun"
        async with asyncio.timeout(5):
            await server.left.wait()
