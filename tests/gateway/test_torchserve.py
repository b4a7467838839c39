"""TorchServe's answers and oddities, as the gateway's Inference tells them apart."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from gateway import torchserve
from gateway.errors import ModelBusy, ModelDown, ModelError, ModelGarbled, ModelRejected, ModelTimeout, WorkerDied
from gateway.settings import Settings
from gateway.torchserve import TorchServeInference
from gateway.torchserve_connections import AiohttpConnections, Connections
from handler.contract.generation import GenerationParameters
from handler.contract.wire import GenerateReply, GenerateRequest, WireError, decode_reply, encode_failure
from tests.gateway.fake_torchserve import READY, FakeTorchServe, InProcess, echo
from tests.gateway.serving import running

pytestmark = pytest.mark.anyio

LOADING = READY | {"status": "LOADING"}


@pytest.fixture
def served() -> FakeTorchServe:
    return FakeTorchServe()


@pytest.fixture
def inference(served: FakeTorchServe) -> TorchServeInference:
    """The adapter with the fake in its own process; no socket between them."""
    return adapter(InProcess(served))


def adapter(connections: Connections, **options: Any) -> TorchServeInference:
    urls = {"inference_url": "http://inference", "management_url": "http://management"}
    return TorchServeInference(connections, model_name="godel", **urls | options)


def asking(**options: Any) -> GenerateRequest:
    return GenerateRequest(prompt="Hello.", request_id="r-1", **options)


def reply_with(text: str) -> bytes:
    return replace(decode_reply(echo(asking())), text=text).encode()


def refuse(error: WireError) -> Callable[[GenerateRequest], bytes]:
    def reply(_: GenerateRequest) -> bytes:
        raise error

    return reply


async def test_the_request_arrives_as_it_was_sent_and_the_reply_comes_back(
    served: FakeTorchServe, inference: TorchServeInference
) -> None:
    sent = asking(parameters=GenerationParameters(seed=3), submitted_at=1.5, deadline=time.time() + 9)
    reply = await inference.generate(sent)
    assert served.seen == [sent]
    assert (reply.text, reply.request_id, reply.batch_size) == ("Hello.", "r-1", 3)


@pytest.mark.parametrize(
    ("status", "error"),
    [(500, ModelDown), (507, ModelDown), (404, ModelDown), (400, ModelDown), (405, ModelDown), (413, ModelRejected)],
)
async def test_torchserves_own_failures_are_told_by_status(
    served: FakeTorchServe, inference: TorchServeInference, status: int, error: type[ModelError]
) -> None:
    served.status = status
    with pytest.raises(error):
        await inference.generate(asking())


@pytest.mark.parametrize(("workers", "error"), [([READY], ModelBusy), ([LOADING], ModelDown), ([], ModelDown)])
async def test_a_503_means_busy_only_while_a_worker_is_ready(
    served: FakeTorchServe, inference: TorchServeInference, workers: list[Any], error: type[ModelError]
) -> None:
    served.status, served.workers = 503, workers
    with pytest.raises(error):
        await inference.generate(asking())


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (WireError(422, "beyond_model_limits", "too long", {"prompt": "has 600 tokens"}), ModelRejected),
        (WireError(400, "unsupported_format", "format_version is 2"), ModelRejected),
        (WireError(503, "overloaded", "later"), ModelBusy),
        (WireError(504, "late", "too late"), ModelTimeout),
        (WireError(500, "engine_failed", "broken"), ModelDown),
    ],
)
async def test_the_handlers_own_failures_keep_their_meaning(
    served: FakeTorchServe, inference: TorchServeInference, failure: WireError, error: type[ModelError]
) -> None:
    served.reply = refuse(failure)
    with pytest.raises(error) as caught:
        await inference.generate(asking())
    if isinstance(caught.value, ModelRejected):
        assert (caught.value.status, caught.value.problems) == (failure.status, failure.problems)


@pytest.mark.parametrize("noise", [b"", b"{}", b"[]", b"Prediction failed", b'{"format_version": 99}', b"\xff"])
async def test_a_reply_that_the_contract_does_not_know_is_garbled(
    served: FakeTorchServe, inference: TorchServeInference, noise: bytes
) -> None:
    served.reply = lambda _: noise
    with pytest.raises(ModelGarbled):
        await inference.generate(asking())


async def test_a_failure_inside_a_successful_response_is_a_failure(
    served: FakeTorchServe, inference: TorchServeInference
) -> None:
    served.reply = lambda _: encode_failure(WireError(422, "late_refusal", "no"))
    with pytest.raises(ModelRejected):
        await inference.generate(asking())


@asynccontextmanager
async def over_a_socket(served: FakeTorchServe) -> AsyncIterator[TorchServeInference]:
    with running(served) as url:
        settings = Settings(inference_url=url, management_url=url, request_timeout=5)
        async with TorchServeInference.open(settings, {}) as inference:
            yield inference


async def test_a_connection_cut_in_the_middle_of_a_reply_means_down(served: FakeTorchServe) -> None:
    served.cut = True
    async with over_a_socket(served) as inference:
        with pytest.raises(ModelDown):
            await inference.generate(asking())
        served.cut = False
        assert (await inference.generate(asking())).text == "Hello."


async def test_nobody_listening_means_down() -> None:
    settings = Settings(inference_url="http://127.0.0.1:1", management_url="http://127.0.0.1:1")
    async with TorchServeInference.open(settings, {}) as inference:
        for call in (inference.generate(asking()), inference.ready(), inference.describe()):
            with pytest.raises(ModelDown):
                await call


async def test_no_answer_by_the_deadline_is_a_timeout_and_the_model_is_let_go(
    served: FakeTorchServe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.torchserve.LATENESS_SECONDS", 0.05)
    served.gate = threading.Event()
    async with over_a_socket(served) as inference:
        with pytest.raises(ModelTimeout):
            await inference.generate(asking(deadline=time.time() + 0.05))
        assert await asyncio.to_thread(served.left.wait, 5)
        served.gate.set()


async def test_cancelling_a_call_closes_its_connection(served: FakeTorchServe) -> None:
    served.gate = threading.Event()
    async with over_a_socket(served) as inference:
        call = asyncio.ensure_future(inference.generate(asking()))
        assert await asyncio.to_thread(served.arrived.wait, 5)
        call.cancel()
        assert await asyncio.to_thread(served.left.wait, 5)
        served.gate.set()


async def test_many_calls_at_once_each_get_their_own_answer(served: FakeTorchServe) -> None:
    async with over_a_socket(served) as inference:
        prompts = [f"prompt {number}" for number in range(32)]
        calls = [inference.generate(GenerateRequest(prompt=prompt, request_id=f"r{prompt[7:]}")) for prompt in prompts]
        assert [reply.text for reply in await asyncio.gather(*calls)] == prompts


async def test_ready_asks_a_canary_once_for_each_worker(served: FakeTorchServe, inference: TorchServeInference) -> None:
    for _ in range(3):
        await inference.ready()
    assert len(served.seen) == 1
    served.workers = [READY | {"pid": 4712}]
    for _ in range(3):
        await inference.ready()
    assert len(served.seen) == 2


async def test_many_who_ask_at_once_share_one_canary(served: FakeTorchServe, inference: TorchServeInference) -> None:
    await asyncio.gather(*(inference.ready() for _ in range(8)))
    assert len(served.seen) == 1


@pytest.mark.parametrize("workers", [[], [LOADING], [READY | {"status": "UNLOADING"}]])
async def test_without_a_ready_worker_nothing_is_ready_and_no_canary_is_sent(
    served: FakeTorchServe, inference: TorchServeInference, workers: list[Any]
) -> None:
    served.workers = workers
    with pytest.raises(ModelDown):
        await inference.ready()
    assert served.seen == []


async def test_a_canary_that_fails_is_sent_again(served: FakeTorchServe, inference: TorchServeInference) -> None:
    served.status = 500
    with pytest.raises(ModelDown):
        await inference.ready()
    served.status = None
    await inference.ready()
    assert len(served.seen) == 2


async def test_the_description_joins_torchserves_words_and_the_handlers(inference: TorchServeInference) -> None:
    model = await inference.describe()
    assert (model.name, model.version, model.slots) == ("godel", "1.0", 8)
    assert (model.engine, model.precision, model.device, model.max_prompt_tokens) == ("torch", "fp32", "cpu", 512)
    assert [(worker.status, worker.pid) for worker in model.workers] == [("READY", 4711)]
    assert (model.queue_capacity, model.queue_pending) == (60, 4)


async def test_a_worker_is_asked_for_its_words_once_and_a_new_one_again(
    served: FakeTorchServe, inference: TorchServeInference
) -> None:
    for _ in range(3):
        await inference.describe()
    assert served.described == 1
    served.workers = [READY | {"pid": 5}]
    served.words = {"device": "cuda:0"}
    assert (await inference.describe()).device == "cuda:0"
    assert served.described == 2


async def test_what_a_silent_handler_does_not_say_the_archive_does(served: FakeTorchServe) -> None:
    served.workers = [LOADING]
    archive = {"engine": "onnx", "precision": ["odd"]}
    model = await adapter(InProcess(served), archive=archive).describe()
    assert (model.engine, model.precision, model.workers[0].status) == ("onnx", None, "LOADING")


async def test_a_model_that_is_not_registered_is_down_by_name(served: FakeTorchServe) -> None:
    served.known = "other"
    inference = adapter(InProcess(served))
    for call in (inference.generate(asking()), inference.ready(), inference.describe()):
        with pytest.raises(ModelDown, match="no model called godel"):
            await call


async def parts_of(inference: TorchServeInference, **options: Any) -> list[str | GenerateReply]:
    return [part async for part in inference.stream(asking(stream=True, **options))]


async def test_a_stream_brings_each_part_and_the_reply_at_its_end(
    served: FakeTorchServe, inference: TorchServeInference
) -> None:
    served.reply = lambda _: reply_with("One\u2028two three.")
    *parts, reply = await parts_of(inference)
    assert isinstance(reply, GenerateReply)
    assert "".join(str(part) for part in parts) == reply.text == "One\u2028two three."
    assert len(parts) == 3


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        ({"status": 500}, ModelDown),
        ({"status": 503}, ModelBusy),
        ({"reply": refuse(WireError(422, "beyond_model_limits", "too long"))}, ModelRejected),
        ({"reply": lambda _: encode_failure(WireError(504, "late", "too late"))}, ModelTimeout),
        ({"reply": lambda _: b""}, ModelGarbled),
        ({"reply": lambda _: b"noise"}, ModelGarbled),
    ],
    ids=["worker died", "queue full", "refused", "failed in its only line", "empty", "noise"],
)
async def test_a_stream_fails_like_an_answer_in_one_piece(
    served: FakeTorchServe, inference: TorchServeInference, behaviour: dict[str, Any], error: type[ModelError]
) -> None:
    for name, value in behaviour.items():
        setattr(served, name, value)
    with pytest.raises(error):
        await parts_of(inference)


async def test_a_worker_that_dies_in_the_middle_of_a_stream_is_down(served: FakeTorchServe) -> None:
    served.reply = lambda _: reply_with("One two three.")
    served.cut = True
    with running(served) as address:
        async with AiohttpConnections(max_connections=1, keep=True) as connections:
            stream = adapter(connections, inference_url=address).stream(asking(stream=True))
            assert await anext(stream) == "One "
            with pytest.raises(ModelDown):
                await anext(stream)


async def test_a_stream_that_is_closed_lets_go_of_the_model(served: FakeTorchServe) -> None:
    served.reply = lambda _: reply_with("One two three.")
    served.pause = threading.Event()
    with running(served) as address:
        async with AiohttpConnections(max_connections=1, keep=True) as connections:
            stream = adapter(connections, inference_url=address).stream(asking(stream=True))
            assert await anext(stream) == "One "
            await stream.aclose()
            assert await asyncio.to_thread(served.left.wait, 5)


async def test_a_stream_without_news_ends_at_its_deadline_however_the_clock_jumps(
    served: FakeTorchServe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.torchserve.LATENESS_SECONDS", 0.05)
    served.reply = lambda _: reply_with("One two three.")
    served.pause = threading.Event()
    with running(served) as address:
        async with AiohttpConnections(max_connections=1, keep=True) as connections:
            waiting = adapter(connections, inference_url=address, clock=lambda: -3600.0)
            stream = waiting.stream(asking(stream=True, submitted_at=0.0, deadline=0.3))
            assert await anext(stream) == "One "
            with pytest.raises(ModelTimeout):
                await anext(stream)
    served.pause.set()


def not_connected() -> ModelError:
    return ModelDown("made up", reached=False)


def died() -> ModelError:
    return WorkerDied("made up")


def lost() -> ModelError:
    return ModelDown("made up")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("failures", "answered"),
    [
        ([not_connected], True),
        ([not_connected, not_connected], False),
        ([died], False),
        ([lost], False),
    ],
)
async def test_only_what_was_never_sent_is_sent_again_and_once(
    monkeypatch: pytest.MonkeyPatch, stream: bool, failures: list[Callable[[], ModelError]], answered: bool
) -> None:
    monkeypatch.setattr(torchserve, "RECONNECT_SECONDS", 0.0)
    way = InProcess(FakeTorchServe(), *(failure() for failure in failures))
    inference = adapter(way)
    request = GenerateRequest(prompt="one two", request_id="r", stream=stream)

    async def ask() -> str:
        if not stream:
            return (await inference.generate(request)).text
        return "".join([part async for part in inference.stream(request) if isinstance(part, str)])

    if answered:
        assert await ask() == "one two"
    else:
        with pytest.raises(ModelDown):
            await ask()
    assert way.failures == []
