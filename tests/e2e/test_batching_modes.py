"""The same archive content in classic batch mode, chosen in model-config.yaml alone."""

import asyncio
import time
from pathlib import Path

import httpx

from handler.contract.generation import GenerationParameters
from handler.contract.prompt import render
from handler.contract.wire import GenerateRequest, decode_reply
from launcher.trial import trial_torchserve
from tests.e2e.worker_config import with_config
from training.archive import build_archive

ANSWERS = 8


async def answers(url: str) -> list[tuple[str, int]]:
    """Return text and batch size of requests sent at once."""
    parameters = GenerationParameters(do_sample=False, max_length=12)
    async with httpx.AsyncClient(timeout=60) as client:
        prompts = [render([f"What is number {n}?"], f"Number {n} is a prime.") for n in range(ANSWERS)]
        bodies = [
            GenerateRequest(prompt=prompt, request_id=f"r{n}", parameters=parameters).encode()
            for n, prompt in enumerate(prompts)
        ]
        replies = await asyncio.gather(*(client.post(f"{url}/predictions/godel", content=body) for body in bodies))
    decoded = [decode_reply(reply.content) for reply in replies]
    assert [reply.request_id for reply in decoded] == [f"r{n}" for n in range(ANSWERS)]
    return [(reply.text, reply.batch_size) for reply in decoded]


def test_classic_mode_batches_and_answers_as_continuous_mode_does(tmp_path: Path, archive: Path) -> None:
    classic = with_config(archive, tmp_path / "classic.mar", continuousBatching=False, maxBatchDelay=50)
    texts = {}
    for name, mar in (("continuous", archive), ("classic", classic)):
        with trial_torchserve(tmp_path / name, mar) as torchserve:
            replies = asyncio.run(answers(torchserve.inference_url))
            texts[name] = [text for text, _ in replies]
            assert max(size for _, size in replies) > 1
    assert texts["classic"] == texts["continuous"]


def test_a_gpu_that_is_not_there_is_reported_and_the_cpu_serves(tmp_path: Path, archive: Path) -> None:
    wants_gpu = with_config(archive, tmp_path / "gpu.mar", deviceType="gpu")
    with trial_torchserve(tmp_path / "run", wants_gpu) as torchserve:
        body = b"{}"
        told = httpx.post(
            f"{torchserve.inference_url}/predictions/godel", content=body, headers={"describe": "True"}, timeout=30
        ).json()
        log = (torchserve.logs / "worker.log").read_text(encoding="utf-8")
    assert told["device"] == "cpu"
    assert "running on the CPU" in told["device_note"]
    assert "running on the CPU" in log


def test_a_client_that_leaves_frees_its_slot(tmp_path: Path) -> None:
    # The slower engine: the faster one has written the whole answer before it is known that nobody waits for it.
    build_archive("models/embedded", tmp_path / "torch.mar", engine="torch", precision="fp32")
    one_slot = with_config(tmp_path / "torch.mar", tmp_path / "one.mar", batchSize=1)
    long = GenerationParameters(do_sample=False, max_length=256, min_length=256)
    with trial_torchserve(tmp_path / "run", one_slot) as torchserve, httpx.Client(timeout=60) as client:
        url = f"{torchserve.inference_url}/predictions/godel"
        body = GenerateRequest(prompt=render(["Hello."]), request_id="gone", parameters=long).encode()
        with client.stream("POST", url, content=body) as reply:
            assert reply.status_code == 200  # the head is out, the answer is being written; now leave
        short = GenerationParameters(do_sample=False, max_length=2, min_length=0)
        body = GenerateRequest(
            prompt=render(["Hello."]), request_id="next", parameters=short, submitted_at=time.time()
        ).encode()
        assert decode_reply(client.post(url, content=body).content).completion_tokens <= 2
        log = (torchserve.logs / "worker.log").read_text(encoding="utf-8")
    assert "request gone was given up by its client" in log
