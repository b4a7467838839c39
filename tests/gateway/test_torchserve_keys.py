"""TorchServe's own keys: sent where it asks for them, read again when it makes new ones, never guessed."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from starlette.types import Receive, Scope, Send

from gateway.errors import ModelDown, ModelRejected
from gateway.torchserve import TorchServeInference
from handler.contract.wire import GenerateRequest, WireError
from tests.gateway.fake_torchserve import FakeTorchServe, InProcess

pytestmark = pytest.mark.anyio

REFUSAL = {"code": 400, "type": "InvalidKeyException", "message": "Token Authorization failed."}


@dataclass
class GuardedTorchServe:
    """The fake behind keys, as TorchServe asks for them: a 400 before anything else is looked at."""

    behind: FakeTorchServe
    keys: dict[str, str] = field(default_factory=lambda: {"predictions": "inference-1", "models": "management-1"})
    refused: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        wanted = self.keys[scope["path"].split("/")[1]]
        if dict(scope["headers"]).get(b"authorization") == f"Bearer {wanted}".encode():
            await self.behind(scope, receive, send)
            return
        self.refused += 1
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 400, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(REFUSAL).encode()})


@pytest.fixture
def guarded() -> GuardedTorchServe:
    return GuardedTorchServe(FakeTorchServe())


@pytest.fixture
def key_file(tmp_path: Path, guarded: GuardedTorchServe) -> Path:
    path = tmp_path / "key_file.json"
    write(path, guarded)
    return path


def write(path: Path, guarded: GuardedTorchServe) -> None:
    """Write the keys as TorchServe does."""
    entries = {"inference": guarded.keys["predictions"], "management": guarded.keys["models"], "API": "api-1"}
    path.write_text(json.dumps({name: {"key": key, "expiration time": "2036"} for name, key in entries.items()}))


def spoil(path: Path, content: str | None) -> None:
    """Put something else into the key file, or take it away."""
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content.encode("utf-8", "surrogateescape"))


@pytest.fixture
def inference(guarded: GuardedTorchServe, key_file: Path) -> TorchServeInference:
    return TorchServeInference(
        InProcess(guarded),
        inference_url="http://inference",
        management_url="http://management",
        model_name="godel",
        key_file=key_file,
    )


def asking(*, stream: bool = False) -> GenerateRequest:
    return GenerateRequest(prompt="Hello.", request_id="r-1", stream=stream)


async def test_each_interface_gets_its_own_key(inference: TorchServeInference, guarded: GuardedTorchServe) -> None:
    assert (await inference.generate(asking())).text == "Hello."
    assert [part async for part in inference.stream(asking(stream=True))][:1] == ["Hello."]
    await inference.ready()
    assert (await inference.describe()).engine == "torch"
    assert guarded.refused == 0


async def test_a_key_that_is_refused_is_read_again(
    inference: TorchServeInference, guarded: GuardedTorchServe, key_file: Path
) -> None:
    await inference.ready()
    guarded.keys = {"predictions": "inference-2", "models": "management-2"}
    write(key_file, guarded)
    assert [part async for part in inference.stream(asking(stream=True))][:1] == ["Hello."]
    assert (await inference.generate(asking())).text == "Hello."
    await inference.describe()
    assert guarded.refused == 2, "one for each key, and none once the new ones are known"


async def test_a_key_that_stays_wrong_is_tried_once_and_says_what_to_set(
    inference: TorchServeInference, guarded: GuardedTorchServe
) -> None:
    guarded.keys = {"predictions": "another", "models": "another"}
    with pytest.raises(ModelDown, match="GODEL_TORCHSERVE_KEYS"):
        await inference.generate(asking())
    assert guarded.refused == 1
    with pytest.raises(ModelDown, match="GODEL_TORCHSERVE_KEYS"):
        await inference.ready()


@pytest.mark.parametrize("content", [None, "", "[]", '{"inference": null}', '{"inference": {"key": 5}}', "\udcff"])
async def test_a_key_file_that_cannot_be_read_is_waited_for(
    inference: TorchServeInference, guarded: GuardedTorchServe, key_file: Path, content: str | None
) -> None:
    spoil(key_file, content)
    with pytest.raises(ModelDown, match="GODEL_TORCHSERVE_KEYS"):
        await inference.generate(asking())
    write(key_file, guarded)
    assert (await inference.generate(asking())).text == "Hello."


async def test_what_the_handler_refuses_is_not_asked_twice(
    inference: TorchServeInference, guarded: GuardedTorchServe
) -> None:
    def refuse(_: GenerateRequest) -> bytes:
        raise WireError(400, "unsupported_format", "of another version")

    guarded.behind.reply = refuse
    with pytest.raises(ModelRejected):
        await inference.generate(asking())
    assert len(guarded.behind.seen) == 1
