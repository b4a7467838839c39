"""Who is let to the model and who waits: bounds, turns, deadlines, and nobody lost."""

import asyncio
import random
import time
from collections.abc import Callable

import httpx
import pytest

from gateway.admission import Admission
from gateway.app import create_app
from gateway.errors import BotQueueFull, ModelTimeout, QueueFull
from gateway.inference import EchoInference
from gateway.settings import Settings
from gateway.store.memory import MemoryStore
from tests.gateway.conftest import count_words

pytestmark = pytest.mark.anyio

FAR = time.time() + 1000


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0)


async def shows(client: httpx.AsyncClient, line: str) -> None:
    """Return when the metrics hold `line`."""
    async with asyncio.timeout(5):
        while line not in (await client.get("/metrics")).text:  # noqa: ASYNC110 - nor has this
            await asyncio.sleep(0.005)


class Crowd:
    """Requests that hold a place until they are told to leave, in the order in which they got in."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.inside: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self._leave: dict[str, asyncio.Event] = {}

    async def come(self, name: str, deadline: float = FAR) -> None:
        """Let a request come; its bot is the first letter of its name. Returns when it is in or waits."""
        before = self.admission.waiting + self.admission.in_flight
        self._leave[name] = asyncio.Event()
        self.tasks[name] = asyncio.ensure_future(self._visit(name, deadline))
        await until(lambda: self.tasks[name].done() or self.admission.waiting + self.admission.in_flight > before)

    async def leave(self, name: str) -> None:
        """Let it go and everybody who comes after it move up."""
        self._leave[name].set()
        await self.tasks[name]
        for _ in range(5):
            await asyncio.sleep(0)

    async def _visit(self, name: str, deadline: float) -> None:
        async with self.admission.place(name[0], deadline):
            self.inside.append(name)
            await self._leave[name].wait()


async def test_no_more_than_allowed_are_in_and_bots_take_turns() -> None:
    crowd = Crowd(Admission(2, 100))
    for name in ("a1", "a2", "a3", "a4", "a5", "b1", "c1", "b2"):
        await crowd.come(name)
    assert (crowd.inside, crowd.admission.waiting) == (["a1", "a2"], 6)
    for place in range(8):
        await crowd.leave(crowd.inside[place])
    assert crowd.inside == ["a1", "a2", "a3", "b1", "c1", "a4", "b2", "a5"]
    assert (crowd.admission.in_flight, crowd.admission.waiting) == (0, 0)


async def test_beyond_the_queue_requests_are_refused_at_once_and_one_bot_fills_but_half() -> None:
    crowd = Crowd(Admission(1, 4))
    for name in ("a0", "a1", "a2", "a3", "b1", "b2", "c1"):
        await crowd.come(name)
    with pytest.raises(BotQueueFull, match="bot a "):
        await crowd.tasks["a3"]
    with pytest.raises(QueueFull):
        await crowd.tasks["c1"]
    for name in ("a0", "a1", "b1", "a2", "b2"):
        await crowd.leave(name)
    await crowd.come("c2")
    assert crowd.inside[-1] == "c2"


async def test_without_a_queue_nobody_waits() -> None:
    crowd = Crowd(Admission(1, 0))
    await crowd.come("a1")
    await crowd.come("b1")
    with pytest.raises(QueueFull):
        await crowd.tasks["b1"]


async def test_waiting_ends_at_the_deadline() -> None:
    crowd = Crowd(Admission(1, 9))
    await crowd.come("a1")
    await crowd.come("b1", deadline=time.time() + 0.01)
    with pytest.raises(ModelTimeout):
        await crowd.tasks["b1"]
    assert crowd.admission.waiting == 0


async def test_who_stops_waiting_leaves_the_queue_and_keeps_no_place() -> None:
    crowd = Crowd(Admission(1, 9))
    for name in ("a1", "b1", "c1"):
        await crowd.come(name)
    crowd.tasks["b1"].cancel()
    await until(crowd.tasks["b1"].done)
    assert crowd.admission.waiting == 1
    await crowd.leave("a1")
    assert crowd.inside == ["a1", "c1"]


async def test_a_place_that_comes_to_one_who_just_left_goes_to_the_next() -> None:
    crowd = Crowd(Admission(1, 9))
    for name in ("a1", "b1", "c1"):
        await crowd.come(name)
    crowd._leave["a1"].set()
    await crowd.tasks["a1"]  # its place is b1's now, who has not woken up yet
    crowd.tasks["b1"].cancel()
    await until(lambda: "c1" in crowd.inside)
    await crowd.leave("c1")
    assert (crowd.admission.in_flight, crowd.admission.waiting) == (0, 0)


class Watch:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def paced(max_seconds: float, seconds: float, *, in_flight: int = 2) -> tuple[Crowd, Watch]:
    """Return a crowd in which a place came free every `seconds`, some times; all places are taken, nobody waits."""
    watch = Watch()
    crowd = Crowd(Admission(in_flight, 1000, max_seconds, timer=watch))
    for number in range(in_flight + 10):
        await crowd.come(f"w{number}")
    for _ in range(10):
        watch.now += seconds
        await crowd.leave(crowd.inside[len(crowd.inside) - in_flight])
    assert (crowd.admission.in_flight, crowd.admission.waiting) == (in_flight, 0)
    return crowd, watch


async def test_who_would_wait_too_long_is_refused_at_once_and_told_when_to_come_again() -> None:
    crowd, _ = await paced(max_seconds=3.0, seconds=0.9)
    for name in ("a1", "a2", "a3", "a4"):
        await crowd.come(name)
    with pytest.raises(QueueFull, match="about 4 s") as refused:
        await crowd.tasks["a4"]
    assert refused.value.retry_seconds == 4
    assert crowd.admission.waiting == 3


async def test_a_bot_without_a_queue_is_let_in_where_a_busy_one_is_refused() -> None:
    crowd, _ = await paced(max_seconds=3.0, seconds=0.9)
    for name in ("a1", "a2", "a3", "a4", "b1"):
        await crowd.come(name)
    assert crowd.tasks["a4"].done()
    with pytest.raises(QueueFull):
        await crowd.tasks["a4"]
    assert (crowd.tasks["b1"].done(), crowd.admission.waiting) == (False, 4)


async def test_before_a_pace_is_known_only_the_bound_on_numbers_holds() -> None:
    crowd = Crowd(Admission(1, 9, 0.001))
    for name in ("a1", "b1", "c1", "d1"):
        await crowd.come(name)
    assert (crowd.admission.in_flight, crowd.admission.waiting) == (1, 3)
    for task in crowd.tasks.values():
        task.cancel()


async def test_a_slow_first_answer_is_no_pace() -> None:
    watch = Watch()
    crowd = Crowd(Admission(16, 1000, 5.0, timer=watch))
    for number in range(20):
        await crowd.come(f"a{number}")
    for place in range(2):  # a second between the first two
        watch.now += 1.0
        await crowd.leave(crowd.inside[place])
    for number in range(44):
        await crowd.come(f"b{number}")
    assert crowd.admission.waiting == 46
    for task in crowd.tasks.values():
        task.cancel()


async def test_after_a_halt_of_the_model_the_queue_opens_again() -> None:
    crowd, watch = await paced(max_seconds=3.0, seconds=1000.0)
    await crowd.come("a0")
    await crowd.come("b0")
    with pytest.raises(QueueFull):
        await crowd.tasks["b0"]
    for number in range(300):  # the model is quick again, one waits at a time
        watch.now += 0.001
        await crowd.leave(crowd.inside[-2])
        await crowd.come(f"a{number + 1}")
    await crowd.come("b1")
    assert not crowd.tasks["b1"].done()


async def test_idle_time_is_no_pace() -> None:
    crowd, watch = await paced(max_seconds=3.0, seconds=0.1)
    for name in crowd.inside[-2:]:
        await crowd.leave(name)
    watch.now += 1000
    for name in ("a1", "a2", "a3", "a4"):
        await crowd.come(name)
    watch.now += 0.1
    await crowd.leave("a1")
    await crowd.come("a5")
    assert not crowd.tasks["a5"].done()


async def test_nobody_waits_longer_than_twice_what_one_may_expect() -> None:
    crowd = Crowd(Admission(1, 9, 0.01))
    await crowd.come("a1")
    await crowd.come("b1")
    with pytest.raises(QueueFull, match=r"within 0\.02 s"):
        await crowd.tasks["b1"]
    assert crowd.admission.waiting == 0


@pytest.mark.parametrize("seed", range(20))
async def test_a_newcomer_waits_for_as_many_as_was_expected(seed: int) -> None:
    rng = random.Random(seed)
    crowd = Crowd(Admission(1, 1000))
    for number in range(rng.randint(1, 30)):
        await crowd.come(f"{rng.choice('abcd')}{number}")
    for _ in range(rng.randint(0, len(crowd.tasks) - 1)):
        await crowd.leave(crowd.inside[-1])
    newcomer = f"{rng.choice('abcde')}-new"
    expected = crowd.admission._ahead(newcomer[0])
    await crowd.come(newcomer)
    served = len(crowd.inside)
    while newcomer not in crowd.inside:
        await crowd.leave(crowd.inside[-1])
    assert len(crowd.inside) - served - 1 == expected


@pytest.mark.parametrize("stream", [False, True])
async def test_over_http_what_is_too_much_is_refused_and_the_rest_answered(settings: Settings, stream: bool) -> None:
    model = EchoInference(gate=asyncio.Event())
    app = create_app(
        settings.model_copy(update={"max_in_flight": 1, "max_waiting": 2}),
        store=MemoryStore(),
        inference=model,
        count_tokens=count_words,
    )
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client,
    ):
        for bot in ("a", "b"):
            await client.put(f"/v1/bots/{bot}", json={"knowledge": bot})

        async def ask(bot: str) -> httpx.Response:
            return await client.post(f"/v1/bots/{bot}/chat", json={"message": "x", "stream": stream})

        first = asyncio.ensure_future(ask("a"))
        await model.asked.wait()
        waiting = [asyncio.ensure_future(ask("a"))]
        await shows(client, "godel_waiting 1.0")
        refused = await ask("a")
        assert (refused.status_code, refused.json()["type"]) == (429, "urn:godel-serve:bot-queue-full")
        waiting.append(asyncio.ensure_future(ask("b")))
        await shows(client, "godel_waiting 2.0")
        full = await ask("b")
        assert (full.status_code, full.json()["type"]) == (503, "urn:godel-serve:queue-full")
        assert full.headers["retry-after"] == "1"
        unknown = await ask("nobody")
        assert unknown.status_code == 503, "it was looked for before it was refused"
        model.gate.set()  # type: ignore[union-attr]
        answers = await asyncio.gather(first, *waiting)
        assert [answer.status_code for answer in answers] == [200] * 3
        for line in ("godel_in_flight 0.0", "godel_waiting 0.0", 'godel_refusals_total{cause="QueueFull"} 2.0'):
            await shows(client, line)


async def test_a_place_that_comes_free_as_the_next_in_line_goes_away_is_not_lost() -> None:
    admission = Admission(1, 8)

    async def wait() -> None:
        async with admission.place("b", FAR):
            pass

    async with admission.place("a", FAR):
        waiting = [asyncio.ensure_future(wait()) for _ in range(3)]
        await until(lambda: admission.waiting == 3)
        waiting[0].cancel()  # and the place comes free before its task has run again
    await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5)
    assert [each.cancelled() for each in waiting] == [True, False, False]
    assert (admission.in_flight, admission.waiting) == (0, 0)
