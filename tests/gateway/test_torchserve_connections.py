"""Connections to TorchServe: what is sent, what is kept open, and what each failure is called."""

import asyncio
import contextlib
import errno
import gc
import gzip
import socket
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import pytest

from gateway.errors import ModelDown, ModelTimeout, WorkerDied
from gateway.torchserve_connections import AiohttpConnections, AiohttpResponse

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


class Client:
    """Sends requests to one server."""

    def __init__(self, connections: AiohttpConnections, url: str, patience: float) -> None:
        self._connections, self._url, self._patience = connections, url, patience

    async def send(
        self, method: str = "GET", path: str = "/", body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> AiohttpResponse:
        url = f"{self._url}{path}"
        return await self._connections.send(method, url, headers=headers or {}, body=body, patience=self._patience)


async def whole(sent: Awaitable[AiohttpResponse]) -> tuple[int, bytes]:
    response = await sent
    return response.status, await response.read()


@asynccontextmanager
async def asking(server: Serve, *, keep: bool = True, patience: float = 5) -> AsyncIterator[Client]:
    listening = await asyncio.start_server(server, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    async with AiohttpConnections(max_connections=4, keep=keep, socket_options=options) as connections:
        yield Client(connections, f"http://127.0.0.1:{port}", patience)
    listening.close()


async def test_a_request_arrives_as_it_is_and_its_connection_is_used_again() -> None:
    server = Server()
    async with asking(server) as client:
        for _ in range(3):
            sent = client.send("POST", "/a%20b?c=d", b"\x00body", {"X-Own": "1", "content-type": "text/own"})
            assert await whole(sent) == (200, b"ok")
    assert server.heads[0].startswith("post /a%20b?c=d http/1.1\r\n")
    assert "\r\nx-own: 1\r\n" in server.heads[0]
    assert server.heads[0].count("content-type: ") == 1
    assert "\r\ncontent-type: text/own\r\n" in server.heads[0]
    assert server.bodies == [b"\x00body"] * 3
    assert server.connections == 1


async def test_the_end_of_the_connections_is_that_of_each() -> None:
    server = Server()
    async with asking(server) as client:
        assert await whole(client.send()) == (200, b"ok")
        assert not server.left.is_set()
    async with asyncio.timeout(5):
        await server.left.wait()


async def test_a_connection_that_is_not_to_be_kept_is_said_to_be_and_closed() -> None:
    server = Server()
    async with asking(server, keep=False) as client:
        for _ in range(3):
            assert await whole(client.send()) == (200, b"ok")
    assert server.connections == 3
    assert all("\r\nconnection: close\r\n" in head for head in server.heads)


async def test_a_body_that_was_packed_on_its_way_is_read_unpacked() -> None:
    packed = gzip.compress(b"ok")
    head = f"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {len(packed)}\r\n\r\n".encode()
    async with asking(Server(head + packed)) as client:
        assert await whole(client.send()) == (200, b"ok")


async def test_redirects_are_the_callers_affair() -> None:
    moved = b"HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n"
    server = Server(moved)
    async with asking(server) as client:
        assert (await whole(client.send()))[0] == 302
    assert len(server.heads) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-le",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        b"\x00\x01 no HTTP\r\n\r\n",
    ],
)
async def test_a_connection_that_the_other_end_closes_is_a_worker_that_died(answer: bytes) -> None:
    server = Server(answer, then_close=True)
    async with asking(server) as client:
        with pytest.raises(WorkerDied) as raised:
            await whole(client.send("POST", body=b"x"))
    assert raised.value.reached, "it may have had the request all the same"
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

    async with asking(turn_into_rubbish, patience=60) as client, asyncio.timeout(5):
        response = await client.send()
        parts = response.parts()
        assert await anext(parts) == b"begun"
        read.set()
        if not waits:
            await gone.wait()
        with pytest.raises(WorkerDied):
            await anext(parts)
        response.close()


async def test_a_connection_that_is_kept_does_not_keep_the_bodies_it_brought() -> None:
    begun, met = asyncio.Event(), []

    async def answer_in_two_parts(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        met.append(writer)
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
    async with AiohttpConnections(max_connections=4, keep=True) as connections, asyncio.timeout(5):
        for _ in range(3):
            response = await connections.send("GET", url, headers={}, patience=5)
            begun.set()
            assert await response.read() == b"ok"
            bodies.append(weakref.ref(response))
        del response
        gc.collect()
        assert [body() for body in bodies] == [None] * 3
    assert len(met) == 1
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
    monkeypatch.setattr(AiohttpConnections, "_socket", lambda _, address: Cut(*address[:3]))
    async with asking(Server(answer)) as client:
        with pytest.raises(ModelDown) as raised:
            await whole(client.send("POST", body=b"x"))
    assert raised.value.reached
    assert not isinstance(raised.value, WorkerDied)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "http://nosuch.invalid/"])
async def test_nobody_listening_is_down_and_has_not_had_the_request(url: str) -> None:
    async with AiohttpConnections(max_connections=4, keep=True) as connections:
        with pytest.raises(ModelDown) as raised:
            await connections.send("GET", url, headers={}, patience=5)
    assert not raised.value.reached


async def test_silence_is_a_timeout() -> None:
    async with asking(Server(b""), patience=0.05) as client:
        with pytest.raises(ModelTimeout):
            await client.send()


async def test_a_response_that_is_not_read_to_its_end_closes_its_connection() -> None:
    server = Server(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nbegun")
    async with asking(server) as client:
        response = await client.send()
        assert await anext(response.parts()) == b"begun"
        response.close()
        async with asyncio.timeout(5):
            await server.left.wait()
