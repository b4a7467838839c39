"""The handler as TorchServe calls it: continuous and classic, with bad rows, vanished clients and failures."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from handler.contract.generation import GenerationParameters
from handler.contract.prompt import FORMAT_VERSION
from handler.contract.wire import GenerateReply, GenerateRequest, WireError, decode_line, decode_reply
from handler.engine_thread import EngineThread
from handler.engines.base import EngineError
from handler.engines.onnx_engine import OnnxEngine
from handler.godel_handler import GodelHandler
from handler.scheduler import CPU_PATIENCE, Scheduler


class FakeMetrics:
    """Counts what is emitted, by name."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}

    def add_counter(self, name: str, value: float, idx: str) -> None:
        self.add_metric(name, value, idx=idx)

    def add_metric(self, name: str, value: float, idx: str, **_: object) -> None:
        assert idx
        self.values.setdefault(name, []).append(value)


class FakeContext:
    """What a handler sees of TorchServe in one worker."""

    def __init__(self, model_dir: Path, config: dict[str, Any], batch_size: int = 4) -> None:
        self.system_properties = {"model_dir": str(model_dir), "batch_size": batch_size, "gpu_id": None}
        self.model_yaml_config = config
        self.metrics = FakeMetrics()
        self.stopping_criteria: list[Callable[[bytes], bool | None]] | None = None
        self.request_ids: dict[int, str] = {}
        self.headers: dict[str, dict[str, str]] = {}
        self.statuses: dict[int, int] = {}
        self.content_types: dict[str, str] = {}

    def get_request_header(self, index: int, name: str) -> str | None:
        return self.headers.get(self.request_ids[index], {}).get(name)

    def set_response_status(self, code: int, phrase: str, idx: int) -> None:
        assert "\n" not in phrase
        self.statuses[idx] = code

    def set_response_content_type(self, index: int, value: str) -> None:
        self.content_types[self.request_ids[index]] = value


class Frontend:
    """TorchServe's side of the continuous protocol: calls until every request is answered or has left."""

    def __init__(self, handler: GodelHandler, context: FakeContext) -> None:
        self.handler, self.context = handler, context
        self.live: dict[str, dict[str, Any] | None] = {}
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.parts: dict[str, list[bytes]] = {}

    def send(self, key: str, body: bytes) -> None:
        self.send_row(key, {"body": body})

    def send_row(self, key: str, row: dict[str, Any]) -> None:
        self.live[key] = row

    def call(self) -> None:
        keys = list(self.live)
        self.context.request_ids = dict(enumerate(keys))
        self.context.statuses = {}
        data = [self.live[key] or {} for key in keys]
        replies = self.handler.handle(data, self.context)
        assert len(replies) == len(keys)
        assert self.context.stopping_criteria is not None
        for index, (key, reply) in enumerate(zip(keys, replies, strict=True)):
            verdict = self.context.stopping_criteria[index](reply)
            first_call = self.live[key] is not None
            assert not (verdict is True and first_call), "a last part without a header hangs the client"
            if verdict is False:
                self.parts.setdefault(key, []).append(reply)
                self.live[key] = None
            else:
                self.answers[key] = (self.context.statuses.get(index, 200), reply)
                del self.live[key]

    def drain(self) -> None:
        for _ in range(1000):
            if not self.live:
                return
            self.call()
        raise AssertionError("requests were never answered")

    def reply(self, key: str) -> GenerateReply:
        status, body = self.answers[key]
        assert status == 200
        assert not any(self.parts.get(key, ())), "a part of an answer that was wanted whole"
        return decode_reply(body)

    def lines(self, key: str) -> list[str | GenerateReply]:
        """Return what a client that streams has read."""
        body = b"".join([*self.parts.get(key, ()), self.answers[key][1]])
        assert body.endswith(b"\n")
        return [decode_line(line) for line in body.splitlines()]


@pytest.fixture
def model_dir(exports: dict[str, Path], tmp_path: Path) -> Path:
    (tmp_path / "model").symlink_to(exports["onnx-int8"])
    (tmp_path / "metadata.json").write_text(json.dumps({"format_version": FORMAT_VERSION, "name": "tiny"}))
    return tmp_path


made: list[GodelHandler] = []


def make(model_dir: Path, *, continuous: bool = True, **options: object) -> tuple[GodelHandler, FakeContext]:
    config = {"continuousBatching": continuous, "deviceType": "cpu", "handler": {"max_prompt_tokens": 64, **options}}
    context = FakeContext(model_dir, config)
    handler = GodelHandler()
    handler.initialize(context)
    made.append(handler)
    return handler, context


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    """End the threads of the handlers that a test made."""
    yield
    while made:
        made.pop()._thread.close()


def request(number: int, *, stream: bool = False, **parameters: object) -> bytes:
    chosen = GenerationParameters.from_mapping({"do_sample": False, "min_length": 0, "max_length": 12, **parameters})
    prompt = " ".join(f"w{(number * 7 + index) % 90}" for index in range(5 + number))
    return GenerateRequest(prompt=prompt, request_id=f"r{number}", parameters=chosen, stream=stream).encode()


def test_continuous_requests_answer_the_same_alone_and_in_company(model_dir: Path) -> None:
    handler, context = make(model_dir)
    alone = {}
    for number in range(6):
        frontend = Frontend(handler, context)
        frontend.send("only", request(number))
        frontend.drain()
        alone[number] = frontend.reply("only").text
    company = Frontend(handler, context)
    for number in range(4):
        company.send(str(number), request(number))
        company.call()
    for number in range(4, 6):
        company.send(str(number), request(number))
    company.drain()
    assert {number: company.reply(str(number)).text for number in range(6)} == alone
    assert len(set(alone.values())) > 1
    assert max(company.reply(str(number)).batch_size for number in range(6)) > 1


def test_a_reply_accounts_for_its_tokens_and_carries_its_request_id(model_dir: Path) -> None:
    handler, context = make(model_dir)
    frontend = Frontend(handler, context)
    frontend.send("a", request(3, max_length=5, min_length=5))
    frontend.drain()
    reply = frontend.reply("a")
    assert (reply.request_id, reply.finish_reason) == ("r3", "length")
    assert (reply.prompt_tokens, reply.completion_tokens) == (9, 5)
    assert reply.compute_ms > 0


@pytest.mark.parametrize(
    ("body", "status", "problem"),
    [
        (b"not json", 400, None),
        (b'{"format_version": 99}', 400, None),
        (request(1).replace(b'"max_length":12', b'"max_length":100000'), 422, "parameters.max_length"),
        (request(1, max_length=500), 422, "parameters.max_length"),
        (request(1, num_beams=4), 422, "parameters.num_beams"),
        (request(80), 422, "prompt"),
        (json.dumps(json.loads(request(1)) | {"prompt": " "}).encode(), 422, "prompt"),
    ],
    ids=["not JSON", "foreign version", "out of bounds", "too long for the model", "beams", "long prompt", "blank"],
)
def test_a_bad_request_gets_its_own_status_and_its_neighbours_their_answers(
    model_dir: Path, body: bytes, status: int, problem: str | None
) -> None:
    handler, context = make(model_dir)
    frontend = Frontend(handler, context)
    frontend.send("good", request(1))
    frontend.send("bad", body)
    frontend.send("good too", request(2))
    frontend.drain()
    assert frontend.answers["bad"][0] == status
    with pytest.raises(WireError) as caught:
        decode_reply(frontend.answers["bad"][1])
    assert caught.value.status == status
    if problem:
        assert problem in caught.value.problems
    assert frontend.reply("good").completion_tokens > 0
    assert frontend.reply("good too").completion_tokens > 0
    assert context.metrics.values["GodelRejected"] == [1]


def test_a_client_that_left_frees_its_slot(model_dir: Path) -> None:
    handler, context = make(model_dir)
    frontend = Frontend(handler, context)
    for number in range(4):
        frontend.send(f"gone {number}", request(number, max_length=200, min_length=200))
    frontend.call()
    frontend.live.clear()
    frontend.send("stays", request(1))
    frontend.drain()
    assert frontend.reply("stays").batch_size == 1


def test_a_request_past_its_deadline_is_answered_with_what_there_is(model_dir: Path) -> None:
    handler, context = make(model_dir)
    frontend = Frontend(handler, context)
    late = json.loads(request(1)) | {"deadline": time.time() - 1}
    frontend.send("late", json.dumps(late).encode())
    frontend.drain()
    assert frontend.reply("late").finish_reason == "deadline"
    assert frontend.reply("late").text == ""


def test_a_failing_engine_fails_the_live_requests_and_the_next_one_is_served(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, context = make(model_dir)
    frontend = Frontend(handler, context)
    frontend.send("doomed", request(1))
    with monkeypatch.context() as patch:
        patch.setattr(OnnxEngine, "step", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            frontend.call()
    frontend.live.clear()
    frontend.send("next", request(2))
    frontend.drain()
    assert frontend.reply("next").batch_size == 1


def test_an_engine_that_failed_when_all_had_left_is_no_matter_of_the_next(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, context = make(model_dir, call_milliseconds=0)
    frontend = Frontend(handler, context)
    frontend.send("gone", request(1, max_length=200, min_length=200))
    frontend.call()
    with monkeypatch.context() as patch:
        patch.setattr(OnnxEngine, "step", lambda *_: 1 / 0)
        end = time.monotonic() + 30
        while handler._thread._failure is None:
            assert time.monotonic() < end
            time.sleep(0.001)
    frontend.live.clear()
    frontend.send("next", request(2))
    frontend.drain()
    assert frontend.reply("next").batch_size == 1


def test_a_worker_whose_engine_cannot_be_reset_ends_and_leaves_its_place_to_a_new_one(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, context = make(model_dir)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    monkeypatch.setattr(OnnxEngine, "step", lambda *_: 1 / 0)
    monkeypatch.setattr(OnnxEngine, "release", lambda *_: 1 / 0)
    frontend = Frontend(handler, context)
    frontend.send("doomed", request(1))
    with pytest.raises(SystemExit, match="started anew"):
        frontend.call()


def test_a_call_does_not_return_while_the_engine_hangs_so_that_torchserve_sees_it(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, context = make(model_dir, call_milliseconds=0, stream_milliseconds=0)
    let_go, returned = threading.Event(), threading.Event()
    step = OnnxEngine.step

    def hanging(engine: OnnxEngine, *given: Any) -> Any:
        assert let_go.wait(30)
        return step(engine, *given)

    monkeypatch.setattr(OnnxEngine, "step", hanging)
    frontend = Frontend(handler, context)
    frontend.send("s", request(1, stream=True))

    def call() -> None:
        frontend.call()
        returned.set()

    caller = threading.Thread(target=call)
    caller.start()
    assert not returned.wait(0.3)
    let_go.set()
    caller.join(30)
    assert returned.is_set()
    frontend.drain()


def test_a_bad_request_is_refused_at_once_whatever_the_engine_is_doing(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, context = make(model_dir, call_milliseconds=0)
    let_go = threading.Event()
    frontend = Frontend(handler, context)
    frontend.send("good", request(1, max_length=200, min_length=200))
    frontend.call()
    step = OnnxEngine.step
    monkeypatch.setattr(OnnxEngine, "step", lambda *given: let_go.wait(30) and step(*given))
    frontend.send("bad", b"no JSON")
    frontend.call()
    assert frontend.answers["bad"][0] == 400
    let_go.set()
    frontend.drain()
    assert frontend.reply("good").completion_tokens == 200


@pytest.mark.parametrize("options", [{}, {"stream_milliseconds": 0}, {"call_milliseconds": 0}])
def test_streamed_parts_join_to_the_unstreamed_answer_in_company_too(model_dir: Path, options: dict[str, int]) -> None:
    handler, context = make(model_dir, continuous=True, **options)
    frontend = Frontend(handler, context)
    for number in range(4):
        frontend.send(f"whole {number}", request(number))
        frontend.drain()
    for number in range(4):
        frontend.send(f"streamed {number}", request(number, stream=number != 2))
        frontend.call()
    frontend.drain()
    for number in (0, 1, 3):
        *parts, last = frontend.lines(f"streamed {number}")
        whole = frontend.reply(f"whole {number}")
        assert isinstance(last, GenerateReply)
        assert "".join(str(part) for part in parts) == last.text == whole.text
        assert (last.finish_reason, last.completion_tokens) == (whole.finish_reason, whole.completion_tokens)
    assert frontend.reply("streamed 2").text == frontend.reply("whole 2").text
    assert context.content_types["streamed 1"] == "application/x-ndjson"
    assert context.content_types["streamed 2"] == context.content_types["whole 1"] == "application/json"


def test_each_call_brings_what_a_stream_has_so_far(model_dir: Path) -> None:
    handler, context = make(model_dir, stream_milliseconds=0)
    frontend = Frontend(handler, context)
    frontend.send("s", request(1, stream=True, min_length=200, max_length=200))
    frontend.drain()
    assert sum(1 for part in frontend.parts["s"] if part) > 3
    assert not handler._streams


def test_a_bad_request_to_stream_is_refused_like_any_other(model_dir: Path) -> None:
    handler, context = make(model_dir)
    frontend = Frontend(handler, context)
    frontend.send("bad", request(1, stream=True, max_length=500))
    frontend.drain()
    assert frontend.answers["bad"][0] == 422


def test_a_stream_whose_client_left_is_forgotten(model_dir: Path) -> None:
    handler, context = make(model_dir)
    frontend = Frontend(handler, context)
    frontend.send("gone", request(1, stream=True, max_length=200, min_length=200))
    frontend.call()
    frontend.live.clear()
    frontend.send("stays", request(1))
    frontend.drain()
    assert frontend.reply("stays").batch_size == 1
    assert not handler._streams


def test_classic_mode_answers_a_whole_batch_in_one_call(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Of a model as quick as this one the first answer could be ready before the second question is handed over.
    submitted, both = [], threading.Event()
    submit, encode = EngineThread.submit, OnnxEngine.encode

    def counted(*arguments: Any, **options: Any) -> None:
        submit(*arguments, **options)
        submitted.append(arguments)
        if len(submitted) == 2:
            both.set()

    def when_both_are_there(*arguments: Any) -> None:
        assert both.wait(10)
        encode(*arguments)

    handler, context = make(model_dir, continuous=False)
    monkeypatch.setattr(EngineThread, "submit", counted)
    monkeypatch.setattr(OnnxEngine, "encode", when_both_are_there)
    context.request_ids = {0: "a", 1: "b", 2: "c"}
    replies = handler.handle([{"body": request(1)}, {"body": b"{"}, {"body": request(2)}], context)
    assert context.stopping_criteria is None
    assert context.statuses == {1: 400}
    assert decode_reply(replies[0]).request_id == "r1"
    assert decode_reply(replies[2]).request_id == "r2"
    assert decode_reply(replies[0]).batch_size == 2


def test_classic_and_continuous_mode_give_the_same_text(model_dir: Path) -> None:
    classic, context = make(model_dir, continuous=False)
    context.request_ids = {0: "a"}
    (reply,) = classic.handle([{"body": request(4)}], context)
    frontend = Frontend(*make(model_dir))
    frontend.send("a", request(4))
    frontend.drain()
    assert frontend.reply("a").text == decode_reply(reply).text


def test_a_prediction_with_the_describe_header_tells_what_is_served(model_dir: Path) -> None:
    handler, context = make(model_dir)
    context.headers = {"d": {"describe": "True"}}
    frontend = Frontend(handler, context)
    frontend.send("d", b"{}")
    frontend.drain()
    described = json.loads(frontend.answers["d"][1])
    assert described["name"] == "tiny"
    assert (described["engine"], described["precision"], described["device"]) == ("onnx", "int8", "cpu")
    assert described["batching"] == "continuous"


def test_an_archive_of_another_prompt_format_is_refused(model_dir: Path) -> None:
    (model_dir / "metadata.json").write_text('{"format_version": 999}')
    with pytest.raises(EngineError, match="make archive"):
        make(model_dir)


def test_finished_requests_are_measured(model_dir: Path) -> None:
    handler, context = make(model_dir)
    frontend = Frontend(handler, context)
    frontend.send("a", request(1))
    frontend.drain()
    assert context.metrics.values["GodelRequests"] == [1]
    assert context.metrics.values["GodelBatchSize"] == [1]
    assert context.metrics.values["GodelComputeSeconds"][0] > 0


def test_patience_is_what_the_settings_say_and_on_a_cpu_else_the_schedulers_own(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float] = []

    class Noting(Scheduler):
        def __init__(self, *arguments: Any, patience: float, **others: Any) -> None:
            given.append(patience)
            super().__init__(*arguments, patience=patience, **others)

    monkeypatch.setattr("handler.godel_handler.Scheduler", Noting)
    for said in ({}, {"patience_milliseconds": None}, {"patience_milliseconds": 0}, {"patience_milliseconds": 250}):
        make(model_dir, **said)
    assert given == [CPU_PATIENCE, CPU_PATIENCE, 0.0, 0.25]
