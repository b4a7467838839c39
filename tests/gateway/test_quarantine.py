"""Prompts that end workers: how many deaths it takes, who is suspect, and who is cleared."""

import asyncio
from collections.abc import AsyncGenerator, Callable

import pytest

from gateway.errors import GatewayError, ModelDown, ModelRejected, WorkerDied
from gateway.inference import EchoInference
from gateway.quarantine import QUARANTINE_SECONDS, Quarantine
from handler.contract.wire import GenerateReply, GenerateRequest

pytestmark = pytest.mark.anyio


class Mortal(EchoInference):
    """A model with places for all who come together; one that says "poison" ends it for everybody inside."""

    def __init__(self) -> None:
        super().__init__()
        self.inside: list[str] = []
        self.company: list[list[str]] = []
        """Who was inside when somebody came."""
        self.deaths = 0
        self.open = asyncio.Event()

    async def generate(self, request: GenerateRequest) -> GenerateReply:
        self.inside.append(request.prompt)
        self.company.append(list(self.inside))
        try:
            deaths = self.deaths
            await self.open.wait()
            if request.prompt == "poison":
                self.deaths += 1
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            if self.deaths > deaths:
                raise WorkerDied("it died")
            return await super().generate(request)
        finally:
            self.inside.remove(request.prompt)

    async def stream(self, request: GenerateRequest) -> AsyncGenerator[str | GenerateReply, None]:
        yield await self.generate(request)


class Times:
    """A timer that moves when told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def asking(prompt: str) -> GenerateRequest:
    return GenerateRequest(prompt=prompt, request_id="r", submitted_at=1.0, deadline=6.0)


async def outcome(quarantine: Quarantine, prompt: str) -> type[GatewayError] | None:
    try:
        await quarantine.generate(asking(prompt))
    except GatewayError as error:
        return type(error)
    return None


async def streamed(quarantine: Quarantine, prompt: str) -> type[GatewayError] | None:
    try:
        async for _ in quarantine.stream(asking(prompt)):
            pass
    except GatewayError as error:
        return type(error)
    return None


@pytest.mark.parametrize("ask", [outcome, streamed])
async def test_a_prompt_may_end_the_worker_twice_and_after_that_does_not_reach_it(
    ask: Callable[[Quarantine, str], "asyncio.Future[type[GatewayError] | None]"],
) -> None:
    model, timer = Mortal(), Times()
    model.open.set()
    quarantine = Quarantine(model, timer)
    outcomes = []
    for _ in range(4):
        outcomes.append(await ask(quarantine, "poison"))
        timer.now += 4
    assert outcomes == [WorkerDied, WorkerDied, ModelRejected, ModelRejected]
    assert model.deaths == 2
    timer.now += QUARANTINE_SECONDS
    assert await ask(quarantine, "poison") is WorkerDied


async def test_who_died_with_it_is_tried_alone_and_cleared() -> None:
    model, timer = Mortal(), Times()
    quarantine = Quarantine(model, timer)
    crowd = [*(f"innocent {number}" for number in range(5)), "poison"]

    async def together() -> list[type[GatewayError] | None]:
        asked = [asyncio.ensure_future(outcome(quarantine, prompt)) for prompt in crowd]
        for _ in range(5):
            await asyncio.sleep(0)
        model.open.set()
        return await asyncio.gather(*asked)

    assert await together() == [WorkerDied] * 6
    timer.now += 4
    model.open.clear()
    model.company.clear()
    assert await together() == [None] * 5 + [WorkerDied]
    assert all(len(inside) == 1 for inside in model.company), "suspects were tried together"
    timer.now += 4
    assert await together() == [None] * 5 + [ModelRejected]


async def test_many_who_ask_the_same_at_one_death_are_one_suspect_and_it_may_be_chance() -> None:
    model, timer = Mortal(), Times()
    quarantine = Quarantine(model, timer)
    asked = [asyncio.ensure_future(outcome(quarantine, prompt)) for prompt in ("popular", "popular", "poison")]
    for _ in range(5):
        await asyncio.sleep(0)
    model.open.set()
    assert await asyncio.gather(*asked) == [WorkerDied] * 3
    timer.now += 4
    assert await outcome(quarantine, "popular") is None


async def test_a_model_that_is_not_there_makes_nobody_suspect() -> None:
    model = EchoInference(failure=ModelDown("no connection"))
    quarantine = Quarantine(model)
    assert [await outcome(quarantine, "x") for _ in range(4)] == [ModelDown] * 4
    model.failure = None
    assert await outcome(quarantine, "x") is None
