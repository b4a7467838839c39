"""A probe hears the truth, and soon."""

import asyncio

import pytest

from gateway.errors import ModelDown
from gateway.inference import EchoInference
from gateway.readiness import TRUST_SECONDS, Readiness

pytestmark = pytest.mark.anyio


class Slow(EchoInference):
    """A model whose readiness takes until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.asked_times = 0

    async def ready(self) -> None:
        self.asked_times += 1
        await self.go.wait()
        await super().ready()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_before_the_first_good_answer_a_probe_waits_for_it() -> None:
    model = Slow()
    readiness = Readiness(model)
    probe = asyncio.create_task(readiness.check())
    await asyncio.sleep(0.1)
    assert not probe.done()
    model.go.set()
    await probe


async def test_while_news_are_late_the_last_good_answer_stands_for_a_while() -> None:
    model, clock = Slow(), Clock()
    readiness = Readiness(model, clock)
    model.go.set()
    await readiness.check()
    model.go.clear()
    clock.now += TRUST_SECONDS / 2
    await readiness.check()
    await readiness.check()
    assert model.asked_times == 2, "the probes share one question"
    clock.now += TRUST_SECONDS
    late = asyncio.create_task(readiness.check())
    await asyncio.sleep(0.1)
    assert not late.done()
    model.go.set()
    await late
    await readiness.close()


async def test_bad_news_are_told_at_once_and_end_all_trust() -> None:
    model = EchoInference()
    readiness = Readiness(model)
    await readiness.check()
    model.failure = ModelDown("gone")
    for _ in range(2):
        with pytest.raises(ModelDown):
            await readiness.check()
    model.failure = None
    await readiness.check()
