"""Requests that come together begin one by one."""

import asyncio
from typing import Any

import pytest

from gateway.access import NEEDS
from gateway.turns import PROBES, Turns

pytestmark = pytest.mark.anyio


class Loads:
    """An application that notes who began, and works a moment longer in another turn of the event loop."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.asking = Turns(self)

    async def __call__(self, scope: Any, *_: Any) -> None:
        self.begun.append(scope["path"])
        await asyncio.sleep(0)

    def ask(self, path: str) -> "asyncio.Task[None]":
        async def nothing(*_: Any) -> Any:
            return {}

        return asyncio.ensure_future(self.asking({"type": "http", "path": path}, nothing, nothing))


@pytest.mark.parametrize("probe", sorted(PROBES))
async def test_a_probe_that_comes_with_many_requests_begins_before_them(probe: str) -> None:
    loads = Loads()
    asked = [loads.ask(f"/{number}") for number in range(100)] + [loads.ask(probe)]
    await asyncio.gather(*asked)
    assert loads.begun.index(probe) <= 2
    assert [path for path in loads.begun if path != probe] == [f"/{number}" for number in range(100)]


async def test_the_probes_are_routes_that_are_open_to_everybody() -> None:
    assert [NEEDS[f"GET {probe}"] for probe in PROBES] == [None] * len(PROBES)


async def test_a_request_that_comes_alone_begins_in_the_same_turn_of_the_loop() -> None:
    loads = Loads()
    for path in ("/a", "/b"):
        asked = loads.ask(path)
        await asyncio.sleep(0)
        assert loads.begun[-1] == path
        await asked


async def test_who_leaves_while_it_waits_does_not_hold_up_those_behind() -> None:
    loads = Loads()
    asked = [loads.ask(f"/{number}") for number in range(4)]
    await asyncio.sleep(0)
    for gone in asked[1:3]:
        gone.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    assert loads.begun == ["/0", "/3"]
    await loads.ask("/later")
    assert loads.begun[-1] == "/later"
