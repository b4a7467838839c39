"""Who reaches TorchServe's ports and what for: its own keys, the closed model API, the places archives come from."""

import http.server
import json
import shutil
import socket
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gateway.settings import Settings
from handler.contract.generation import GenerationParameters
from handler.contract.prompt import render
from handler.contract.wire import DESCRIBE_HEADER, GenerateRequest, decode_reply
from launcher.stack import Stack
from launcher.torchserve import TorchServe
from launcher.trial import ARCHIVE, trial_torchserve
from tests.gateway.serving import GatewayProcess
from tests.security.conftest import keys_of

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

HANDLER = "class Handler:\n    def initialize(self, context): pass\n    def handle(self, data, context): return data\n"


def question() -> bytes:
    prompt = render(["What is blue?"], "The sea is blue.")
    return GenerateRequest(prompt=prompt, request_id="r", parameters=GenerationParameters(max_length=8)).encode()


@pytest.fixture(scope="module")
def gateway(guarded: TorchServe, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway that knows where they are."""
    process = GatewayProcess(
        {
            "GODEL_INFERENCE_URL": guarded.inference_url,
            "GODEL_MANAGEMENT_URL": guarded.management_url,
            "GODEL_TORCHSERVE_KEYS": str(guarded.key_file),
            "GODEL_TOKENIZER": str(guarded.archive),
            "GODEL_DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path_factory.mktemp('gateway')}/bots.db",
        }
    )
    yield process
    process.close()


def test_with_tokens_on_nobody_without_a_key_asks_stalls_stops_or_scales_the_model(guarded: TorchServe) -> None:
    keys, inference, management = keys_of(guarded), guarded.inference_url, guarded.management_url
    doors = [
        ("POST", f"{inference}/predictions/godel", "inference"),
        ("POST", f"{inference}/predictions/godel/1.0", "inference"),
        ("GET", f"{inference}/ping", "inference"),
        ("GET", f"{management}/models", "management"),
        ("GET", f"{management}/models/godel", "management"),
        ("GET", f"{management}/models/godel?customized=true", "management"),
        ("GET", f"{management}/models/godel/1.0?customized=true", "management"),
        ("PUT", f"{management}/models/godel?min_worker=0&max_worker=0", "management"),
        ("PUT", f"{management}/models/godel/1.0/set-default", "management"),
        ("DELETE", f"{management}/models/godel", "management"),
        ("POST", f"{management}/models?url=godel.mar", "management"),
        ("GET", f"{management}/token?type=inference", "API"),
    ]
    strangers = {"none": {}, "wrong": {"Authorization": "Bearer AAAAAAAA"}, "no scheme": {"Authorization": "AAAAAAAA"}}
    with httpx.Client(timeout=30) as client:
        for method, url, wanted in doors:
            others = {name: header for name, header in keys.items() if name != wanted}
            for name, header in (strangers | others).items():
                reply = client.request(method, url, headers=header)
                assert (reply.status_code, reply.json()["type"]) == (400, "InvalidKeyException"), f"{name}: {url}"
        reply = client.post(f"{inference}/predictions/godel", content=question(), headers=keys["inference"])
        assert decode_reply(reply.content).completion_tokens


def test_the_gateway_sends_the_keys_and_finds_new_ones_by_itself(guarded: TorchServe, gateway: GatewayProcess) -> None:
    with httpx.Client(base_url=gateway.url, timeout=30) as client:
        client.put("/v1/bots/sea", json={"knowledge": "The sea is blue."}).raise_for_status()
        for _ in range(2):
            assert client.get("/readyz").status_code == 200
            client.post("/v1/bots/sea/chat", json={"message": "What is blue?"}).raise_for_status()
            streamed = client.post("/v1/bots/sea/chat", json={"message": "What is blue?", "stream": True})
            assert "event: answer" in streamed.text
            assert client.get("/v1/model").json()["engine"] == "onnx"
            old = keys_of(guarded)
            for kind in ("inference", "management"):
                turned = httpx.get(f"{guarded.management_url}/token?type={kind}", headers=old["API"])
                assert turned.status_code == 200
            assert keys_of(guarded)["inference"] != old["inference"]
        assert client.get("/v1/model").json()["workers"]
    for header in keys_of(guarded).values():
        assert header["Authorization"].removeprefix("Bearer ") not in gateway.log


def test_the_launcher_tells_the_gateway_where_the_keys_are(guarded: TorchServe, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    database = f"sqlite+aiosqlite:///{tmp_path}/bots.db"
    stack = Stack(guarded, Settings(port=port, tokenizer=guarded.archive, database_url=database, shutdown_grace=1))
    try:
        stack.start_gateway()  # returns when a canary prompt has been answered
        assert httpx.get(f"{stack.gateway_url}/v1/model").json()["workers"]
    finally:
        assert stack._gateway is not None
        stack._gateway.end(10)


@pytest.fixture(scope="module")
def mischief(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive outside the model store that would run its author's code."""
    path = tmp_path_factory.mktemp("elsewhere") / "mischief.mar"
    model = {"modelName": "mischief", "modelVersion": "1.0", "handler": "handler.py"}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps({"runtime": "python", "model": model}))
        archive.writestr("handler.py", HANDLER)
    return path


def unpacked(archive: Path) -> Path:
    """Return a folder with the files of `archive`, beside it."""
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(archive.with_suffix(""))
    return archive.with_suffix("")


@pytest.fixture
def origin(mischief: Path) -> Iterator[tuple[str, list[str]]]:
    """A web server that has it; yields its address there and the paths that were asked for."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *given: object) -> None:
            super().__init__(*given, directory=str(mischief.parent))  # type: ignore[arg-type]  # as http.server calls it

        def do_GET(self) -> None:
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/{mischief.name}", asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_archives_are_fetched_from_the_model_store_alone_even_with_the_model_api_on(
    tmp_path: Path, mischief: Path, origin: tuple[str, list[str]]
) -> None:
    store = tmp_path / "store"
    store.mkdir()
    shutil.copy(ARCHIVE, store / "godel.mar")
    shutil.copy(mischief, store / "allowed.mar")
    address, asked = origin
    outside = [
        address,
        mischief.as_uri(),
        str(mischief),
        f"../{mischief.parent.name}/{mischief.name}",
        f"file://{store}/../../{mischief.parent.name}/{mischief.name}",
        f"file://{store}/%2e%2e/%2e%2e/{mischief.parent.name}/{mischief.name}",
        f"{address}?file://{store}/x",
        f"ftp://127.0.0.1/{mischief.name}",
    ]
    own = {"enable_model_api": "true"}
    with trial_torchserve(tmp_path / "run", store / "godel.mar", own) as torchserve, httpx.Client(timeout=30) as client:

        def register(url: str, name: str) -> httpx.Response:
            wanted = {"url": url, "model_name": name, "initial_workers": "0"}
            return client.post(f"{torchserve.management_url}/models", params=wanted)

        for number, url in enumerate(outside):
            refused = register(url, f"m{number}")
            assert (refused.status_code, refused.json()["type"]) == (404, "ModelNotFoundException"), url
        assert register("allowed.mar", "allowed").status_code == 200, "the refusals above were about the place"
        # What SECURITY.md says the setting does not do: a folder is no address, so nobody asks where it lies.
        assert register(str(unpacked(mischief)), "folder").status_code == 200
        models = client.get(f"{torchserve.management_url}/models").json()["models"]
        assert {model["modelName"] for model in models} == {"godel", "allowed", "folder"}
        assert asked == []
        assert {path.name for path in store.iterdir()} == {"godel.mar", "allowed.mar"}
        describe = {DESCRIBE_HEADER: "True"}
        client.post(f"{torchserve.inference_url}/predictions/godel", headers=describe).raise_for_status()
