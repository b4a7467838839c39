"""What the load would notice: the real gateway over a model, or a store, that breaks a promise on purpose."""

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import httpx
import pytest

from bench.load.actions import ACTIONS, MIX, Town, act, read_back, settle
from bench.load.arrivals import Crowd
from bench.load.people import BrokenPromise, Person, people
from gateway.app import create_app
from gateway.conversations import Exchange
from gateway.errors import ModelDown
from gateway.inference import EchoInference
from gateway.settings import Settings
from gateway.store.memory import MemoryStore
from handler.contract.wire import GenerateRequest

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def honest(request: GenerateRequest) -> str:
    """Answer as the embedded model does: with the sentence of the passage that was asked for."""
    passage = request.prompt.rpartition("[KNOWLEDGE]")[2]
    found = re.search(r"The password[^.]*\.", passage)
    assert found is not None, request.prompt
    return found[0]


@dataclass
class Liar:
    """Answers with what the request before wanted to know."""

    kept: list[str] = field(default_factory=lambda: ["The password of the club is yellow bishop candle."])

    def __call__(self, request: GenerateRequest) -> str:
        self.kept.append(honest(request))
        return self.kept[-2]


class Forgetful(MemoryStore):
    """Acknowledges turns that it does not keep."""

    async def append(self, bot_id: str, session_id: str, message: str, response: str) -> Exchange:  # noqa: ARG002
        return Exchange(number=1, message=message, response=response, created_at=datetime.now(UTC))


@asynccontextmanager
async def town(
    answer: Callable[[GenerateRequest], str] = honest,
    store: MemoryStore | None = None,
    failure: Exception | None = None,
) -> AsyncIterator[tuple[Town, list[Person]]]:
    """Yield a town of twelve with a bot each."""
    app = create_app(
        Settings(),
        store=store or MemoryStore(),
        inference=EchoInference(answer, failure=failure),
        count_tokens=lambda text: len(text.split()) + 1,
    )
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as http,
    ):
        crowd = people(12, seed=1)
        place = Town(http)
        for person in crowd:
            await settle(place, person)
        yield place, crowd


async def test_a_service_that_keeps_its_word_has_nothing_said_against_it() -> None:
    async with town() as (place, crowd):
        # In one process nobody can hang up: who leaves is seen in test_soak.py.
        visitors = Crowd(place, crowd, seed=2, mix={kind: weight for kind, weight in MIX.items() if kind != "leave"})
        assert await visitors.closed("closed", 4, 0.5) > 0
        await visitors.open("open", 200, 0.5)
        await visitors.drain()
        for person, session in place.past:
            await read_back(place, person, session)
    assert (visitors.broken, visitors.findings) == (0, [])
    done = {kind for tally in visitors.tallies.values() for kind, ending in tally.endings if ending == "done"}
    assert done >= {"chat", "stream", "turn", "read"}


@pytest.mark.parametrize("kind", ["chat", "stream", "turn"])
async def test_an_answer_that_is_somebody_elses_is_noticed(kind: str) -> None:
    async with town(Liar()) as (place, crowd):
        outcome = await act(kind, place, crowd[0])
    assert outcome.ending == "broken"
    assert "somebody else" in outcome.detail


@pytest.mark.parametrize("kind", ["chat", "stream", "turn"])
@pytest.mark.parametrize(
    "beside",
    [
        "It rains.",
        "The password of the club is amber falcon fal falcon feather.",
        "The password of the club is amber falfalcon feather.",
    ],
)
async def test_an_answer_beside_the_question_is_a_mistake_when_it_comes_again_and_else_noticed(
    kind: str, beside: str
) -> None:
    async with town(lambda _: beside) as (place, crowd):
        assert (await act(kind, place, crowd[0])).ending == "done"
        assert place.mistakes == 1
    said = iter([beside, "It snows."])
    async with town(lambda _: next(said)) as (place, crowd):
        outcome = await act(kind, place, crowd[0])
    assert (outcome.ending, "It snows" in outcome.detail) == ("broken", True)


@pytest.mark.parametrize("change", ["edit", "upload"])
async def test_an_answer_from_knowledge_that_was_changed_before_is_noticed(change: str) -> None:
    before: dict[str, str] = {}
    async with town(lambda request: before.setdefault("said", honest(request))) as (place, crowd):
        assert (await act("chat", place, crowd[0])).ending == "done"
        assert (await act(change, place, crowd[0])).ending == "done"
        assert (await act("read", place, crowd[0])).ending == "done"
        outcome = await act("chat", place, crowd[0])
    assert (outcome.ending, "changed before" in outcome.detail) == ("broken", True)


async def test_a_turn_that_was_acknowledged_and_lost_is_noticed() -> None:
    async with town(store=Forgetful()) as (place, crowd):
        assert (await act("turn", place, crowd[0])).ending == "done"
        assert (await act("read", place, crowd[0])).ending == "broken"
        with pytest.raises(BrokenPromise, match="lost 1 acknowledged turns"):
            await read_back(place, *place.past[0])


async def test_a_turn_of_somebody_else_is_noticed() -> None:
    store = MemoryStore()
    async with town(store=store) as (place, crowd):
        await act("turn", place, crowd[0])
        person, session = place.past[0]
        await store.append(person.bot_id, session.session_id, "What did I say?", "Nothing.")
        with pytest.raises(BrokenPromise, match="not of it"):
            await read_back(place, person, session)


async def test_a_turn_that_nobody_saw_the_end_of_may_be_there_once() -> None:
    store = MemoryStore()
    async with town(store=store) as (place, crowd):
        await act("turn", place, crowd[0])
        person, session = place.past[0]
        session.unknown.add("Hello?")
        await read_back(place, person, session)
        await store.append(person.bot_id, session.session_id, "Hello?", "Yes.")
        await read_back(place, person, session)
        await store.append(person.bot_id, session.session_id, "Hello?", "Yes.")
        with pytest.raises(BrokenPromise):
            await read_back(place, person, session)


@pytest.mark.parametrize("kind", ["chat", "stream", "turn"])
async def test_503_with_a_time_to_come_again_is_a_refusal_and_a_500_breaks_a_promise(kind: str) -> None:
    async with town(failure=ModelDown("no worker")) as (place, crowd):
        assert (await act(kind, place, crowd[0])).ending == "refused"

    def failing(request: httpx.Request) -> httpx.Response:
        return httpx.Response(500 if request.url.path.endswith("/chat") else 201, json={"session_id": "s"})

    async with httpx.AsyncClient(transport=httpx.MockTransport(failing), base_url="http://127.0.0.1") as http:
        assert (await act(kind, Town(http), crowd[1])).ending == "broken"


async def test_a_refusal_that_does_not_say_when_to_come_again_breaks_a_promise() -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(503))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        (person,) = people(1, seed=1)
        outcomes = [await act(kind, Town(http), person) for kind in ACTIONS if kind != "leave"]
    assert {outcome.ending for outcome in outcomes} == {"broken"}
    assert "without Retry-After" in outcomes[0].detail


async def test_people_come_as_often_as_was_asked_and_the_same_for_a_seed() -> None:
    moments = [list(Crowd(Town(httpx.AsyncClient()), people(2, 1), seed)._moments(100.0, 50.0)) for seed in (1, 1, 2)]
    assert moments[0] == moments[1] != moments[2]
    assert len(moments[0]) == pytest.approx(5000, rel=0.05)


def test_no_two_people_share_a_password() -> None:
    crowd = people(156, seed=1)
    assert len({person.own_words for person in crowd}) == 156
    with pytest.raises(ValueError, match="not 157"):
        people(157, seed=1)
