"""Metrics count what happened, and tell nothing of what was said."""

import re

import httpx
import pytest

from gateway import metrics
from gateway.errors import ModelBusy
from gateway.inference import EchoInference

pytestmark = pytest.mark.anyio


async def values(client: httpx.AsyncClient) -> dict[str, float]:
    response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    rows = re.findall(r"^(godel_\S+(?:\{.*\})?) (\S+)$", response.text, re.MULTILINE)
    return {name: float(value) for name, value in rows}


async def test_answers_are_counted_with_what_they_took(client: httpx.AsyncClient, model: EchoInference) -> None:
    await client.put("/v1/bots/b", json={"knowledge": "xylophone"})
    (await client.post("/v1/bots/b/chat", json={"message": "one two"})).raise_for_status()
    (await client.post("/v1/bots/b/chat", json={"message": "one two", "stream": True})).raise_for_status()
    model.failure = ModelBusy("full")
    await client.post("/v1/bots/b/chat", json={"message": "one"})
    counted = await values(client)
    assert counted['godel_answers_total{bot="b"}'] == 2
    assert counted["godel_compute_seconds_count"] == counted["godel_batch_size_count"] == 2
    assert counted["godel_time_to_first_token_seconds_count"] == 1
    assert counted['godel_model_failures_total{cause="ModelBusy"}'] == 1
    assert counted['godel_tokens_total{kind="completion"}'] > 0
    assert counted['godel_requests_total{method="POST",route="/v1/bots/{bot_id}/chat",status="200"}'] == 2
    assert counted['godel_requests_total{method="POST",route="/v1/bots/{bot_id}/chat",status="503"}'] == 1


async def test_no_label_holds_what_a_user_wrote(client: httpx.AsyncClient) -> None:
    await client.get("/b/context/xylophone")
    await client.get("/b/chat/xylophone%20two")
    await client.get("/v1/xylophone")
    assert "xylophone" not in (await client.get("/metrics")).text


async def test_bots_beyond_the_first_are_counted_together(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "MAX_BOT_LABELS", 2)
    for number in range(5):
        await client.get(f"/bot{number}/context/k")
        await client.get(f"/bot{number}/chat/m")
    counted = await values(client)
    assert counted['godel_answers_total{bot="bot1"}'] == 1
    assert counted['godel_answers_total{bot="(others)"}'] == 3
