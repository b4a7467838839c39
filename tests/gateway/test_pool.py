"""A pool of model servers: who is asked, who is passed over, and what is never asked twice."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

import pytest

from gateway.deployments import Address, Deployment, Routing
from gateway.errors import ModelBusy, ModelDown, ModelError, ModelRejected, ModelTimeout
from gateway.inference import EchoInference, Inference, RoutedReply
from gateway.pool import Pool
from handler.contract.wire import GenerateReply, GenerateRequest

pytestmark = pytest.mark.anyio

OWN = Address("http://own", "http://own-management")
UNREACHED = ModelDown("no connection", reached=False)


def address(name: str) -> Address:
    return Address(f"http://{name}", f"http://{name}-management")


def routing(**servers: tuple[int, list[str]]) -> Routing:
    """Return a routing of weight and servers by version."""
    return Routing(
        deployments=tuple(
            Deployment(name=name, weight=weight, instances=tuple(address(each) for each in named))
            for name, (weight, named) in servers.items()
        )
    )


@dataclass
class Servers:
    """Echoes by their names; a server that is not yet known is made."""

    known: dict[str, EchoInference] = field(default_factory=dict)
    closed: list[str] = field(default_factory=list)

    def __getitem__(self, name: str) -> EchoInference:
        return self.known.setdefault(name, EchoInference())

    @property
    def asked(self) -> dict[str, int]:
        return {name: len(server.requests) for name, server in self.known.items()}

    def open(self, where: Address) -> AbstractAsyncContextManager[Inference]:
        return self._opened(where.inference_url.removeprefix("http://"))

    @asynccontextmanager
    async def _opened(self, name: str) -> AsyncIterator[Inference]:
        yield self[name]
        self.closed.append(name)


@pytest.fixture
def servers() -> Servers:
    return Servers()


@asynccontextmanager
async def pool_of(servers: Servers, **named: tuple[int, list[str]]) -> AsyncIterator[Pool]:
    """A pool that probes only when told to."""
    pool = Pool(servers.open, OWN, chance=random.Random(7))
    await pool.route(routing(**named))
    yield pool
    await pool.close()


def asking(number: int = 0, *, stream: bool = False) -> GenerateRequest:
    return GenerateRequest(prompt="one two three", request_id=f"r{number}", stream=stream)


async def ask(pool: Pool, *, stream: bool = False) -> GenerateReply:
    if not stream:
        return await pool.generate(asking())
    last = None
    async for part in pool.stream(asking(stream=True)):
        last = part
    assert isinstance(last, GenerateReply)
    return last


async def test_versions_are_asked_by_their_weights(servers: Servers) -> None:
    async with pool_of(servers, old=(80, ["a"]), new=(20, ["b"]), next=(0, ["c"])) as pool:
        replies = [await ask(pool) for _ in range(1000)]
    assert all(isinstance(reply, RoutedReply) for reply in replies)
    counted = Counter(reply.deployment for reply in replies if isinstance(reply, RoutedReply))
    assert 150 < counted["new"] < 250
    assert counted["old"] == 1000 - counted["new"]


async def test_the_least_busy_server_of_a_version_is_asked(servers: Servers) -> None:
    for name in "ab":
        servers[name].gate = asyncio.Event()
    async with pool_of(servers, one=(100, ["a", "b"])) as pool:
        calls = [asyncio.ensure_future(ask(pool)) for _ in range(6)]
        await asyncio.gather(servers["a"].asked.wait(), servers["b"].asked.wait())
        await asyncio.sleep(0)
        assert servers.asked == {"a": 3, "b": 3}
        _open(servers["a"])
        await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        calls += [asyncio.ensure_future(ask(pool)) for _ in range(2)]
        _open(servers["b"])
        await asyncio.gather(*calls)
        assert servers.asked["a"] > servers.asked["b"]


async def test_idle_servers_are_asked_in_turn(servers: Servers) -> None:
    async with pool_of(servers, one=(100, ["a", "b", "c"])) as pool:
        for _ in range(6):
            await ask(pool)
    assert servers.asked == {"a": 2, "b": 2, "c": 2}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("failure", [UNREACHED, ModelBusy("full")], ids=["no connection", "queue full"])
async def test_another_server_is_asked_when_no_worker_had_the_request(
    servers: Servers, failure: ModelError, stream: bool
) -> None:
    servers["a"].failure = failure
    async with pool_of(servers, one=(100, ["a", "b"])) as pool:
        assert (await ask(pool, stream=stream)).text == "one two three"
    assert servers.asked == {"a": 1, "b": 1}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "failure",
    [ModelDown("the worker died"), ModelTimeout("late"), ModelRejected("no", status=422)],
    ids=["died", "late", "refused"],
)
async def test_what_a_model_may_have_had_is_asked_nowhere_else(
    servers: Servers, failure: ModelError, stream: bool
) -> None:
    servers["a"].failure = failure
    async with pool_of(servers, one=(100, ["a", "b"])) as pool:
        with pytest.raises(type(failure)):
            await ask(pool, stream=stream)
    assert servers.asked == {"a": 1, "b": 0}


async def test_a_stream_that_has_begun_is_not_begun_again(servers: Servers) -> None:
    servers["a"].breaks_after = 1
    async with pool_of(servers, one=(100, ["a", "b"])) as pool:
        with pytest.raises(ModelDown):
            await ask(pool, stream=True)
    assert servers.asked == {"a": 1, "b": 0}


async def test_a_server_that_is_down_is_passed_over_until_a_probe_succeeds(servers: Servers) -> None:
    servers["a"].failure = ModelDown("the worker died")
    async with pool_of(servers, one=(100, ["a", "b"])) as pool:
        with pytest.raises(ModelDown):
            await ask(pool)
        await pool.probe()
        for _ in range(4):
            await ask(pool)
        assert servers.asked == {"a": 1, "b": 4}
        servers["a"].failure = None
        await pool.probe()
        for _ in range(2):
            await ask(pool)
        assert servers.asked == {"a": 2, "b": 5}


async def test_a_server_that_misses_one_probe_is_still_asked_and_two_not(servers: Servers) -> None:
    async with pool_of(servers, one=(100, ["a", "b"])) as pool:
        for missed in (1, 2):
            servers["a"].failure = ModelDown("late")
            await pool.probe()
            servers["a"].failure = None
            assert [member.live for member in pool.members] == [missed < 2, True]


async def test_a_busy_server_is_alive(servers: Servers) -> None:
    servers["a"].failure = ModelBusy("full")
    async with pool_of(servers, one=(100, ["a", "b"])) as pool:
        for _ in range(3):
            await pool.probe()
        assert all(member.live for member in pool.members)


async def test_when_all_have_failed_all_are_tried_again(servers: Servers) -> None:
    for name in "ab":
        servers[name].failure = UNREACHED
    async with pool_of(servers, one=(100, ["a", "b"])) as pool:
        with pytest.raises(ModelDown, match="no connection"):
            await ask(pool)
        servers["b"].failure = None
        assert (await ask(pool)).text == "one two three"


async def test_a_version_without_a_live_server_leaves_its_share_to_the_others(servers: Servers) -> None:
    servers["new"].failure = UNREACHED
    async with pool_of(servers, old=(50, ["old"]), new=(50, ["new"])) as pool:
        for _ in range(20):
            assert (await ask(pool)).text == "one two three"
    assert servers.asked == {"new": 1, "old": 20}


async def test_a_version_without_a_share_is_not_asked_even_then(servers: Servers) -> None:
    servers["new"].failure = UNREACHED
    async with pool_of(servers, old=(0, ["old"]), new=(100, ["new"])) as pool:
        with pytest.raises(ModelDown):
            await ask(pool)
    assert servers.asked["old"] == 0


async def test_that_all_are_busy_is_said_rather_than_that_one_is_down(servers: Servers) -> None:
    servers["a"].failure, servers["b"].failure = ModelBusy("full"), UNREACHED
    async with pool_of(servers, one=(100, ["a", "b"])) as pool:
        with pytest.raises(ModelBusy):
            await ask(pool)


async def test_a_single_server_is_neither_probed_nor_passed_over(servers: Servers) -> None:
    async with pool_of(servers, one=(100, ["a"])) as pool:
        servers["a"].failure = ModelDown("the worker died")
        for _ in range(3):
            await pool.probe()
        assert pool.members[0].live
        for _ in range(2):
            with pytest.raises(ModelDown):
                await ask(pool)
        assert servers.asked == {"a": 2}


async def test_ready_means_that_one_server_with_a_share_answers(servers: Servers) -> None:
    async with pool_of(servers, old=(100, ["a", "b"]), new=(0, ["c"])) as pool:
        servers["a"].failure = UNREACHED
        await pool.ready()
        servers["b"].failure = UNREACHED
        with pytest.raises(ModelDown):
            await pool.ready()
        await pool.ready("new")


async def test_the_description_is_of_the_greatest_share_and_lists_all(servers: Servers) -> None:
    async with pool_of(servers, new=(20, ["b", "c"]), old=(80, ["a"])) as pool:
        servers["b"].failure = servers["c"].failure = UNREACHED
        for _ in range(2):
            await pool.probe()
        described = await pool.describe()
    assert described.name == "echo"
    shown = [(each.name, each.weight, each.version, each.instances, each.live) for each in described.deployments]
    assert shown == [("old", 80, "1.0", 1, 1), ("new", 20, None, 2, 0)]


async def test_a_server_that_is_removed_finishes_what_it_has_and_gets_nothing_new(servers: Servers) -> None:
    servers["a"].gate = asyncio.Event()
    async with pool_of(servers, one=(100, ["a"])) as pool:
        call = asyncio.ensure_future(ask(pool))
        await servers["a"].asked.wait()
        await pool.route(routing(one=(0, ["a"]), two=(100, ["b"])))
        await pool.route(routing(two=(100, ["b"])))
        await ask(pool)
        assert servers.closed == []
        _open(servers["a"])
        assert (await call).text == "one two three"
        await asyncio.wait_for(_until(lambda: servers.closed == ["a"]), 5)
        assert servers.asked == {"a": 1, "b": 1}
    assert servers.closed == ["a", "b"]


async def test_a_server_keeps_its_connections_when_only_weights_change(servers: Servers) -> None:
    async with pool_of(servers, one=(100, ["a"]), two=(0, ["b"])) as pool:
        before = pool.members
        await pool.route(routing(one=(50, ["a"]), two=(50, ["b"])))
        assert pool.members == before


async def test_without_addresses_a_deployment_is_the_settings_own(servers: Servers) -> None:
    pool = Pool(servers.open, OWN)
    await pool.route(Routing())
    assert (await ask(pool)).text == "one two three"
    assert servers.asked == {"own": 1}
    await pool.close()


async def test_a_client_that_leaves_is_no_failure_and_frees_the_server(servers: Servers) -> None:
    told: list[str] = []
    servers["a"].gate = asyncio.Event()
    pool = Pool(servers.open, OWN, judge=lambda name, error, seconds: told.append(name))  # noqa: ARG005
    await pool.route(routing(one=(100, ["a"])))
    call = asyncio.ensure_future(ask(pool))
    await servers["a"].asked.wait()
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    assert (servers["a"].cancelled, pool.members[0].in_flight, told) == (1, 0, [])
    await pool.close()


async def test_an_open_pool_probes_by_itself(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.pool.PROBE_SECONDS", 0.01)
    named = routing(one=(100, ["a", "b"]))
    servers["a"].failure = UNREACHED
    async with Pool.open(servers.open, OWN, named, judge=lambda *_: None) as pool:
        await asyncio.wait_for(_until(lambda: not pool.members[0].live), 5)
        servers["a"].failure = None
        await asyncio.wait_for(_until(lambda: pool.members[0].live), 5)


async def _until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.005)


def _open(server: EchoInference) -> None:
    assert server.gate is not None
    server.gate.set()
