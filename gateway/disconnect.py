"""Work for a client stops when the client goes away."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request

from gateway.errors import ClientGone

T = TypeVar("T")


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` returns. Cancels it and raises ClientGone when the client closes its connection first.

    Call it when the request's body has been read: what arrives after that is only the end of the connection.
    """
    # The work is this task's own: handed back by another, its result would wait behind other requests, and again.
    mine = asyncio.current_task()
    if mine is None:
        raise AssertionError("a coroutine runs in a task")
    gone = False

    def leave(watch: asyncio.Task[None]) -> None:
        nonlocal gone
        if not watch.cancelled():
            watch.exception()  # what the server says when nobody is there any more is no news
            gone = mine.cancel()

    watch = asyncio.ensure_future(_gone(request))
    watch.add_done_callback(leave)
    try:
        return await work
    except asyncio.CancelledError:
        if gone and mine.cancelling() == 1:  # nobody else cancels it too
            raise ClientGone("the client closed its connection") from None
        raise
    finally:
        watch.remove_done_callback(leave)
        watch.cancel()
        if gone:
            mine.uncancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
