"""Metrics count what happened, and tell nothing of what was said."""

import json
import re

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from gateway import metrics
from gateway.errors import ModelBusy
from gateway.inference import EchoInference
from tests.gateway.serving import ROOT

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


async def test_the_dashboard_asks_for_metrics_that_there_are(client: httpx.AsyncClient) -> None:
    dashboard = json.loads((ROOT / "deploy/grafana/godel-serve.json").read_text(encoding="utf-8"))
    asked = "\n".join(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    await client.put("/v1/bots/b", json={"knowledge": "k"})
    await client.post("/v1/bots/b/chat", json={"message": "x"})
    text = (await client.get("/metrics")).text
    families = {family.name: family.type for family in text_string_to_metric_families(text)}
    own = {name + {"histogram": "_bucket", "counter": "_total"}.get(kind, "") for name, kind in families.items()}
    torchserve = yaml.safe_load((ROOT / "handler/metrics.yaml").read_text(encoding="utf-8"))
    theirs = {
        metric["name"]
        for kinds in (torchserve["ts_metrics"], torchserve["model_metrics"])
        for metrics in kinds.values()
        for metric in metrics
    }
    named = set(re.findall(r"\b(godel_\w+|Godel\w+|Requests\w+)\b", asked))
    assert named <= own | theirs
    assert own - named <= {"godel_requests_total"} | {name for name in own if name.endswith("_created")}
