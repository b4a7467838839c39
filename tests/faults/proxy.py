"""A proxy between gateway and TorchServe that spoils what passes, at once and on connections that are open already."""

import asyncio
import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Literal, Self

Mode = Literal["well", "silent", "rubbish", "slow", "cut", "away"]

SLOW_SECONDS = 0.5
CUT_BYTES = 120
"""Where `cut` ends a response: behind its head, within its body."""


def _rubbish() -> bytes:
    return os.urandom(300) + b"\r\n\r\n"


class Proxy:
    """Passes bytes to `port` on loopback and back; `mode` says how.

    well: as they come · silent: takes everything, answers nothing · rubbish: answers bytes of nothing · slow: a byte
    each half second · cut: resets the connection within each response · away: nobody listens.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self.mode: Mode = "well"
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._own_port = 0

    def set(self, mode: Mode) -> None:
        """Change the mode; whoever is connected feels it with the next byte, or at once when nobody listens."""
        self.mode = mode
        asyncio.run_coroutine_threadsafe(self._listen(mode != "away"), self._loop).result(10)

    def __enter__(self) -> Self:
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.set("well")
        self.url = f"http://127.0.0.1:{self._own_port}"
        return self

    def __exit__(self, *_: object) -> None:
        self.set("away")
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _listen(self, listen: bool) -> None:
        if listen and self._server is None:
            self._server = await asyncio.start_server(self._connected, "127.0.0.1", self._own_port)
            self._own_port = self._server.sockets[0].getsockname()[1]
        elif not listen and self._server is not None:
            self._server.close()
            self._server = None
            for writer in self._writers:
                writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with self._held(writer), contextlib.suppress(OSError):
            behind, before = await asyncio.open_connection("127.0.0.1", self._port)
            with self._held(before):
                await asyncio.gather(self._ask(reader, before, writer), self._answer(behind, writer))

    @contextlib.contextmanager
    def _held(self, writer: asyncio.StreamWriter) -> Iterator[None]:
        self._writers.add(writer)
        try:
            yield
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _ask(
        self, reader: asyncio.StreamReader, before: asyncio.StreamWriter, client: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(65536):
            if client.is_closing():
                break
            match self.mode:
                case "rubbish":
                    client.write(_rubbish())
                case "silent":
                    pass
                case _:
                    before.write(data)
        before.close()

    async def _answer(self, behind: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        while data := await behind.read(65536):
            if client.is_closing():
                return
            match self.mode:
                case "rubbish":
                    client.write(_rubbish())
                case "silent":
                    pass
                case "slow":
                    for place in range(len(data)):
                        client.write(data[place : place + 1])
                        await asyncio.sleep(SLOW_SECONDS)
                        if self.mode != "slow":
                            client.transport.abort()
                            return
                case "cut":
                    client.write(data[:CUT_BYTES])
                    await client.drain()
                    client.transport.abort()
                    return
                case _:
                    client.write(data)
        client.close()
