"""A thread that works for an event loop: in order, to the end, whoever waits."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.store.worker_thread import WorkerThread

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def working() -> AsyncIterator[WorkerThread]:
    thread = WorkerThread("works")
    try:
        async with asyncio.timeout(5):
            yield thread
    finally:
        await thread.stop()


async def test_calls_are_made_in_order_by_one_thread_that_is_not_the_loops() -> None:
    made: list[tuple[int, int]] = []

    def call(number: int) -> int:
        made.append((number, threading.get_ident()))
        return number * 2

    async with working() as thread:
        assert await asyncio.gather(*(thread.call(call, number) for number in range(20))) == list(range(0, 40, 2))
    assert [number for number, _ in made] == list(range(20))
    assert len({ident for _, ident in made} - {threading.get_ident()}) == 1


async def test_what_a_call_raises_reaches_who_waits_and_the_next_one_is_made() -> None:
    async with working() as thread:
        with pytest.raises(ZeroDivisionError):
            await thread.call(lambda: 1 // 0)
        assert await thread.call(lambda: "well") == "well"


async def test_a_call_that_nobody_waits_for_any_more_is_made_all_the_same() -> None:
    gate, made = threading.Event(), list[str]()
    async with working() as thread:
        waiting = asyncio.ensure_future(thread.call(gate.wait))
        given_up = [asyncio.ensure_future(thread.call(made.append, "unheard")), waiting]
        await asyncio.sleep(0)
        for task in given_up:
            task.cancel()
        await asyncio.wait(given_up)
        gate.set()
        assert await thread.call(lambda: [*made]) == ["unheard"]


async def test_stopping_waits_for_what_was_given() -> None:
    gate, made = threading.Event(), list[str]()
    thread = WorkerThread("works")
    calls = [asyncio.ensure_future(thread.call(gate.wait)), asyncio.ensure_future(thread.call(made.append, "last"))]
    await asyncio.sleep(0)
    stopping = asyncio.ensure_future(thread.stop())
    await asyncio.sleep(0)
    assert not stopping.done()
    gate.set()
    await asyncio.gather(stopping, *calls)
    assert made == ["last"]
    with pytest.raises(RuntimeError, match="stopped"):
        await asyncio.wait_for(thread.call(made.append, "too late"), 5)


def test_a_call_that_outlives_its_loop_ends_without_a_word() -> None:
    gate, begun = threading.Event(), threading.Event()
    thread = WorkerThread("works")

    def outlive() -> None:
        begun.set()
        gate.wait()

    async def give_up() -> None:
        waiting = asyncio.ensure_future(thread.call(outlive))
        await asyncio.to_thread(begun.wait)
        waiting.cancel()

    asyncio.run(give_up())
    gate.set()
    assert asyncio.run(asyncio.wait_for(thread.call(lambda: "well"), 5)) == "well"
    asyncio.run(thread.stop())
