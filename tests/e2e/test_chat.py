"""Text in at the gateway, an answer of the embedded model back, through a real TorchServe."""

import asyncio
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import httpx

from handler.contract.archive import read_metadata
from handler.engines import ENGINES
from launcher.properties import ROOT
from launcher.serve import Stack

QUESTIONS = [
    "How many players are in each team?",
    "What is the objective of the game?",
    "How long is the pitch?",
    "What stands at each end of the pitch?",
    "How many runs is a ball over the boundary worth?",
    "When does the innings end?",
    "How many balls make an over?",
    "How long does a test match last?",
]


def test_the_two_endpoints_of_the_seed_answer_about_the_passage(http: httpx.Client, passage: str) -> None:
    set_context = http.get(f"/seed-bot/context/{quote(passage, safe='')}")
    assert set_context.json() == {"response": "Context updated successfully for seed-bot"}
    reply = http.get(f"/seed-bot/chat/{quote('How many players are in each team?', safe='')}")
    assert reply.status_code == 200
    assert reply.json().keys() == {"response"}
    assert reply.json()["response"].strip()


def test_a_greedy_answer_says_something_of_the_passage(http: httpx.Client, passage: str) -> None:
    http.put("/v1/bots/cricket", json={"knowledge": passage}).raise_for_status()
    known = set(passage.lower().replace(".", "").replace(",", "").split())
    shared = []
    for question in QUESTIONS:
        reply = http.post("/v1/bots/cricket/chat", json={"message": question, "parameters": {"do_sample": False}})
        words = reply.raise_for_status().json()["response"].lower().replace(".", "").replace(",", "").split()
        assert words
        shared.append(sum(word in known for word in words) / len(words))
    assert sum(shared) / len(shared) > 0.5


def test_a_message_of_twenty_kilobytes_is_answered_and_its_cut_reported(http: httpx.Client) -> None:
    message = "Where is the café, 100% sure / or not? 🏏 " * 450
    assert len(message.encode()) > 20_000
    http.put("/v1/bots/long", json={"knowledge": "The café is in the square."}).raise_for_status()
    assert http.get(f"/long/chat/{quote(message, safe='')}").status_code == 200
    reply = http.post("/v1/bots/long/chat", json={"message": message, "parameters": {"max_length": 8}})
    assert reply.status_code == 200
    assert reply.json()["left_out"]["message_characters"] > 0


def test_the_model_endpoint_tells_what_is_served(http: httpx.Client, archive: Path) -> None:
    model = http.get("/v1/model").raise_for_status().json()
    metadata = read_metadata(archive)
    assert (model["name"], model["version"]) == ("godel", metadata["version"])
    assert model["engine"] == metadata["engine"]
    assert model["precision"] in ENGINES[model["engine"]]
    assert model["device"] == "cpu"
    assert [worker["status"] for worker in model["workers"]] == ["READY"]


async def _ask(client: httpx.AsyncClient, number: int, **parameters: object) -> httpx.Response:
    chosen = {"do_sample": False, "max_length": 24 + number, "min_length": 16 + number, **parameters}
    body = {"message": QUESTIONS[number % len(QUESTIONS)], "parameters": chosen}
    return await client.post("/v1/bots/crowd/chat", json=body)


def test_sixteen_clients_share_batches_and_each_gets_the_answer_it_gets_alone(stack: Stack, passage: str) -> None:
    async def run() -> tuple[list[httpx.Response], list[httpx.Response]]:
        async with httpx.AsyncClient(base_url=stack.gateway_url, timeout=60) as client:
            (await client.put("/v1/bots/crowd", json={"knowledge": passage})).raise_for_status()
            alone = [await _ask(client, number) for number in range(16)]
            together = await asyncio.gather(
                *(_ask(client, number, **({"top_p": 9} if number == 5 else {})) for number in range(16))
            )
            return alone, together

    alone, together = asyncio.run(run())
    refused = together.pop(5)
    assert refused.status_code == 422
    assert "top_p" in refused.text
    del alone[5]
    assert [reply.status_code for reply in together] == [200] * 15
    assert [r.json()["response"] for r in together] == [r.json()["response"] for r in alone]
    lengths = [reply.json()["usage"]["completion_tokens"] for reply in together]
    wanted = [number for number in range(16) if number != 5]
    assert all(16 + n <= length <= 24 + n for n, length in zip(wanted, lengths, strict=True))
    sizes = [reply.json()["timing"]["batch_size"] for reply in together]
    print(f"\nbatch sizes seen by 15 answers of 16 clients: {sorted(sizes)}")
    assert max(sizes) > 1
    assert {reply.json()["timing"]["batch_size"] for reply in alone} == {1}


def test_a_request_that_only_the_model_can_refuse_gets_its_own_4xx_beside_good_ones(stack: Stack) -> None:
    async def run() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=stack.gateway_url, timeout=60) as client:
            (await client.put("/v1/bots/crowd", json={"knowledge": "The sea is blue."})).raise_for_status()
            beams = [{"num_beams": 4} if number == 3 else {} for number in range(8)]
            return await asyncio.gather(*(_ask(client, number, **beams[number]) for number in range(8)))

    replies = asyncio.run(run())
    assert [reply.status_code for reply in replies] == [200] * 3 + [422] + [200] * 4
    assert "num_beams" in replies[3].text


def test_metrics_count_what_was_served(stack: Stack, http: httpx.Client) -> None:
    http.put("/v1/bots/counted", json={"knowledge": "The sea is blue."}).raise_for_status()
    http.post("/v1/bots/counted/chat", json={"message": "What is blue?"}).raise_for_status()
    text = httpx.get(f"{stack.torchserve.metrics_url}/metrics").text
    for name in ("GodelRequests", "GodelCompletionTokens", "GodelLiveSlots", "GodelComputeSeconds", "GodelBatchSize"):
        assert name in text


def test_no_log_holds_what_users_wrote(stack: Stack, http: httpx.Client) -> None:
    telltale = "Xyzzyplugh"
    http.get(f"/secretive/context/{telltale}%20knowledge").raise_for_status()
    http.get(f"/secretive/chat/{telltale}%20question").raise_for_status()
    http.post("/v1/bots/secretive/chat", json={"message": telltale, "parameters": {"num_beams": 3}})
    logs = list(stack.torchserve.logs.glob("*.log"))
    assert logs
    assert [log.name for log in logs if telltale in log.read_text(encoding="utf-8", errors="replace")] == []


def test_the_example_without_a_server_answers() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.chat", "What is the objective of the game?"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip()
