"""The images' processes as a container runs them: read-only root, an account without a name, the lock's packages."""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from gateway.served_archive import read_archive
from handler.contract.generation import GenerationParameters
from handler.contract.prompt import render
from handler.contract.wire import GenerateRequest, decode_reply
from launcher.excerpt import write_excerpt
from launcher.properties import CONFIG, ROOT, free_ports, read_properties, render_properties
from launcher.trial import ARCHIVE
from tests.deploy.expressions import expressions, names
from tests.deploy.image import Container, container, lay_out, lay_out_packages, read_images

pytestmark = pytest.mark.e2e

IMAGES = read_images()
Options = dict[str, Any]
"""How a container is run."""

ELSEWHERE = "127.0.0.2"
"""An address of this machine on which only who listens on all of them is met."""


@dataclass
class Served:
    """A container of the TorchServe image."""

    container: Container
    options: Options
    ports: dict[str, int]
    run_dir: Path

    def url(self, name: str) -> str:
        """Return an address by its name in config.properties, seen from outside."""
        return f"http://{ELSEWHERE}:{self.ports[name]}"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the image `model` lays out."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "godel.mar").write_bytes(ARCHIVE.read_bytes())
    write_excerpt(ARCHIVE, folder / "tokenizer.mar")
    return readable(folder)


@pytest.fixture(scope="module")
def torchserve_options(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Options:
    root, packages = tmp_path_factory.mktemp("torchserve"), tmp_path_factory.mktemp("torchserve-packages")
    lay_out(IMAGES["torchserve"], root)
    lay_out_packages(["requirements/handler.txt"], packages)
    mounts = {"/models": models}
    return {"image": IMAGES["torchserve"], "root": readable(root), "packages": readable(packages), "read_only": mounts}


@pytest.fixture(scope="module")
def served(torchserve_options: Options, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The image's own command, on free ports, which a mounted config.properties says."""
    folder, ports = tmp_path_factory.mktemp("served"), free_ports()
    config, run_dir = folder / "config.properties", folder / "run"
    run_dir.mkdir()
    relative = read_properties(CONFIG) | {"metrics_config": "handler/metrics.yaml", "model_store": "model_store"}
    config.write_text(render_properties(relative | ports))
    readable(folder)
    mounts = torchserve_options["read_only"] | {"/app/config.properties": config}
    options = torchserve_options | {"read_only": mounts, "writable": {"/run/godel": run_dir}}
    image = IMAGES["torchserve"]
    with container([*image.entrypoint, *image.command], **options) as running:
        running.wait_for("ready: godel")
        numbers = {name: int(value.rpartition(":")[2]) for name, value in ports.items()}
        yield Served(running, options, numbers, run_dir)


def readable(folder: Path) -> Path:
    """Let every account read `folder`, as images are; pytest's folders are their owner's alone."""
    folder.chmod(0o755)
    return folder


def asking(**parameters: Any) -> bytes:
    request = GenerateRequest(
        prompt=render(["Hello."]),
        request_id="r",
        parameters=GenerationParameters(do_sample=False, **parameters),
        stream=True,
    )
    return request.encode()


def test_torchserve_runs_as_nobody_in_particular(served: Served) -> None:
    first = served.container.first()
    family = [first, *first.children(recursive=True)]
    assert [process.name() for process in family if process.name() == "java"] == ["java"]
    for process in family:
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert process.uids().real == process.uids().effective == int(IMAGES["torchserve"].user.split(":")[0])
        assert "NoNewPrivs:\t1" in status
        assert "CapEff:\t0000000000000000" in status
        assert "HOME" not in process.environ()


def test_torchserve_answers_other_machines(served: Served) -> None:
    reply = httpx.post(f"{served.url('inference_address')}/predictions/godel", content=asking(max_length=8), timeout=60)
    assert decode_reply(reply.content.splitlines()[-1]).completion_tokens > 0
    models = httpx.get(f"{served.url('management_address')}/models/godel").json()
    assert models[0]["workers"][0]["status"] == "READY"


def test_the_health_check_passes_once_the_model_has_answered(served: Served) -> None:
    (served.run_dir / "answered").unlink(missing_ok=True)
    for _ in range(2):  # the second time it need not ask the model
        with container(IMAGES["torchserve"].healthcheck, **served.options) as probe:
            assert probe.wait() == 0, probe.log
    assert (served.run_dir / "answered").is_file()


def test_the_health_check_fails_where_nothing_runs(torchserve_options: Options, tmp_path: Path) -> None:
    with container(IMAGES["torchserve"].healthcheck, **torchserve_options, writable={"/run/godel": tmp_path}) as probe:
        assert probe.wait() == 1
    assert "nothing has been started" in probe.log


def test_the_worker_says_what_it_serves_in_the_container_log(served: Served) -> None:
    assert json.loads(served.container.wait_for(r"serving (\{.*\})"))["engine"] == "onnx"


def test_a_model_that_is_missing_ends_the_container_with_the_reason(
    torchserve_options: Options, tmp_path: Path
) -> None:
    image = IMAGES["torchserve"]
    command = [*image.entrypoint, "--run-dir", "/run/godel", "--archive", "/models/other.mar"]
    with container(command, **torchserve_options, writable={"/run/godel": tmp_path}) as running:
        assert running.wait() == 1
    assert "/models/other.mar does not exist" in running.log.splitlines()[-1]


def test_the_archive_is_made_of_what_its_stage_copies(torchserve_options: Options, tmp_path: Path) -> None:
    root, models, scratch = (tmp_path / name for name in ("root", "models", "scratch"))
    for folder in (root, models, scratch):
        folder.mkdir()
    image = dataclasses.replace(IMAGES["archive"], user=IMAGES["torchserve"].user)
    lay_out(image, root)
    readable(tmp_path)
    options = torchserve_options | {"image": image, "root": root, "read_only": {}}
    options["writable"] = {"/models": models, "/tmp": scratch}  # noqa: S108 - of the stage
    build = ["python", "-m", "training.archive", "--model", "models/embedded"]
    for command in (
        [*build, "--output", "/models/godel.mar"],
        ["python", "-m", "launcher.excerpt", "/models/godel.mar", "/models/tokenizer.mar"],
    ):
        with container(command, **options) as step:
            assert step.wait() == 0, step.log
    assert read_archive(models / "tokenizer.mar").metadata["engine"] == "onnx"


@pytest.fixture(scope="module")
def gateway(served: Served, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Container, str]]:
    root, packages = tmp_path_factory.mktemp("gateway"), tmp_path_factory.mktemp("gateway-packages")
    state, uploads = tmp_path_factory.mktemp("state"), tmp_path_factory.mktemp("uploads")
    image = IMAGES["gateway"]
    lay_out(image, root)
    lay_out_packages(["requirements/gateway.txt", "requirements/tracing.txt"], packages)
    with container(
        [*image.entrypoint, *image.command],
        image=image,
        root=readable(root),
        packages=readable(packages),
        read_only={"/models": models},
        writable={"/tmp": uploads, "/state": state},  # noqa: S108 - as the pod has it
        environment={
            "GODEL_PORT": "0",
            "GODEL_ADMIN_KEY": KEY,
            "GODEL_DATABASE_URL": "sqlite:////state/godel.db",
            "GODEL_INFERENCE_URL": served.url("inference_address"),
            "GODEL_MANAGEMENT_URL": served.url("management_address"),
            "GODEL_KEEP_CONNECTIONS": "false",
        },
    ) as running:
        port = running.wait_for(r"listening on http://0\.0\.0\.0:(\d+)")
        yield running, f"http://{ELSEWHERE}:{port}"


KEY = "k" * 32


def test_the_gateway_answers_without_torch_from_its_lock_alone(gateway: tuple[Container, str]) -> None:
    running, url = gateway
    with httpx.Client(base_url=url, headers={"x-api-key": KEY}, timeout=60) as client:
        assert client.get("/readyz").json() == {"status": "ready"}
        bot = {"knowledge": "The cafe opens at nine."}
        client.put("/v1/bots/cafe", json=bot).raise_for_status()
        document = ("big.txt", ("Im Caf\u00e9 ist um neun Fr\u00fchst\u00fcck. " * 32_000).encode(), "text/plain")
        assert len(document[1]) > 1 << 20, "beyond what is kept in memory: it goes to /tmp"
        client.put("/v1/bots/cafe/knowledge", files={"file": document}).raise_for_status()
        reply = client.post("/v1/bots/cafe/chat", json={"message": "When does the cafe open?"}).raise_for_status()
        assert reply.json()["response"]
    assert running.first().uids().real == 10001
    assert not any("torch" in Path(row.path).name for row in running.first().memory_maps())


def test_dashboards_and_autoscalers_ask_for_what_the_processes_show(
    gateway: tuple[Container, str], served: Served
) -> None:
    _, url = gateway
    httpx.post(f"{served.url('inference_address')}/predictions/godel", content=asking(max_length=8), timeout=60)
    own = httpx.get(f"{url}/metrics", headers={"x-api-key": KEY}).text
    theirs = httpx.get(f"{served.url('metrics_address')}/metrics").text
    shown: set[str] = set()
    for family in text_string_to_metric_families(own + theirs):
        endings = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        # TorchServe's counters do without the ending.
        shown |= {family.name + ending for ending in endings} | {sample.name for sample in family.samples}
    declared = yaml.safe_load((ROOT / "handler/metrics.yaml").read_text(encoding="utf-8"))["ts_metrics"]["counter"]
    not_yet = {each["name"] for each in declared} - shown  # failures appear with the first
    asked = set().union(*(names(expression) for expression in expressions()))
    assert asked <= shown | not_yet
    assert {"GodelQueueSeconds_sum", "GodelQueueSeconds_count", "godel_waiting"} <= asked & shown


def test_sigterm_lets_the_gateway_finish_a_stream(gateway: tuple[Container, str]) -> None:
    running, url = gateway
    with httpx.Client(base_url=url, headers={"x-api-key": KEY}, timeout=60) as client:
        client.put("/v1/bots/cafe", json={"knowledge": "The cafe opens at nine."}).raise_for_status()
        long = {"max_length": 200, "min_length": 200}
        question = {"message": "When does the cafe open?", "stream": True, "parameters": long}
        with client.stream("POST", "/v1/bots/cafe/chat", json=question) as reply:
            lines = reply.iter_lines()
            next(lines)
            running.terminate()
            rest = list(lines)
    assert any('"completion_tokens":200' in line.replace(" ", "") for line in rest)
    assert running.wait() == 0, running.log


def test_sigterm_lets_a_stream_finish_before_torchserve_ends(served: Served) -> None:
    running = served.container
    url = f"{served.url('inference_address')}/predictions/godel"
    body = asking(max_length=256, min_length=256)
    with httpx.stream("POST", url, content=body, timeout=60, headers={"connection": "close"}) as reply:
        lines = reply.iter_lines()
        next(lines)
        running.terminate()
        last = list(lines)[-1]
    assert decode_reply(last.encode()).completion_tokens == 256
    assert running.wait() == 0, running.log
    assert "are cut" not in running.log
    assert not psutil.pid_exists(running.pid)
    assert {path.name for path in served.run_dir.iterdir()} == {"answered", "config.properties", "logs"}
