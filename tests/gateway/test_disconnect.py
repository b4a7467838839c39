"""Work for a client: its result, its failure, and its end when the client or the server goes."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from fastapi import Request

from gateway.disconnect import while_connected
from gateway.errors import ClientGone, ModelBusy

pytestmark = pytest.mark.anyio


class Client:
    """Sends nothing, and leaves when it is told to."""

    def __init__(self) -> None:
        self.leaves = asyncio.Event()

    async def receive(self) -> dict[str, str]:
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    @property
    def request(self) -> Request:
        return Request({"type": "http"}, self.receive)


class Work:
    """Goes on until it is told that it is `done`; cleans up a while after it was cancelled."""

    def __init__(self) -> None:
        self.begun, self.done, self.cleaned = asyncio.Event(), asyncio.Event(), False

    async def __call__(self) -> str:
        self.begun.set()
        try:
            await self.done.wait()
        finally:
            await asyncio.sleep(0)
            self.cleaned = True
        return "an answer"


async def test_the_result_is_handed_on_and_nobody_watches_any_more() -> None:
    client, work = Client(), Work()
    work.done.set()
    before = asyncio.all_tasks()
    assert await while_connected(client.request, work()) == "an answer"
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
    client.leaves.set()  # too late to matter
    await asyncio.sleep(0)


async def test_what_the_work_raises_is_raised() -> None:
    async def fail() -> None:
        raise ModelBusy("the queue is full")

    with pytest.raises(ModelBusy):
        await while_connected(Client().request, fail())


async def test_a_client_that_leaves_ends_the_work_which_cleans_up_first() -> None:
    client, work = Client(), Work()
    asyncio.get_running_loop().call_soon(client.leaves.set)
    with pytest.raises(ClientGone):
        await while_connected(client.request, work())
    assert work.cleaned
    await asyncio.sleep(0)  # the task itself is not cancelled: what it does next goes on
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_client_that_leaves_while_a_deadline_passes_is_gone_or_late_but_never_a_cancelled_server() -> None:
    client, work = Client(), Work()

    async def bounded() -> str:
        async with asyncio.timeout(0):
            return await work()

    asyncio.get_running_loop().call_soon(client.leaves.set)
    with pytest.raises((ClientGone, TimeoutError)):
        await while_connected(client.request, bounded())
    await asyncio.sleep(0)


async def test_a_server_that_stops_cancels_the_work_and_says_so() -> None:
    client, work = Client(), Work()
    call: Coroutine[Any, Any, str] = while_connected(client.request, work())
    task = asyncio.ensure_future(call)
    await work.begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.cleaned


async def test_a_server_that_stops_as_the_client_leaves_is_cancelled_all_the_same() -> None:
    client, work = Client(), Work()
    call: Coroutine[Any, Any, str] = while_connected(client.request, work())
    task = asyncio.ensure_future(call)
    await work.begun.wait()
    client.leaves.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises((asyncio.CancelledError, ClientGone)):
        await task
    assert work.cleaned
