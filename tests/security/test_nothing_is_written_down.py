"""No word of a user and no key in any log, trace, metric or error, whatever fails: all of it is searched.

Over real processes: a gateway that logs all it can, before a TorchServe that asks for keys and whose worker dies.
"""

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from launcher.torchserve import TorchServe
from tests.gateway.serving import GatewayProcess, running
from tests.gateway.test_documents import pdf
from tests.gateway.test_tracing import Collector
from tests.security.conftest import keys_of

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

WORD: Final = "xylophone"
"""Stands in all that a user writes, wherever a user can write."""
ADMIN_KEY: Final = "an admin key for tests"


@pytest.fixture
def collector() -> Collector:
    return Collector()


@pytest.fixture
def gateway(guarded: TorchServe, collector: Collector, tmp_path: Path) -> Iterator[GatewayProcess]:
    with running(collector) as address:
        process = GatewayProcess(
            {
                "GODEL_INFERENCE_URL": guarded.inference_url,
                "GODEL_MANAGEMENT_URL": guarded.management_url,
                "GODEL_TORCHSERVE_KEYS": str(guarded.key_file),
                "GODEL_TOKENIZER": str(guarded.archive),
                "GODEL_DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path}/bots.db",
                "GODEL_ADMIN_KEY": ADMIN_KEY,
                "GODEL_LOG_LEVEL": "debug",
                "GODEL_MAX_DOCUMENT_BYTES": "100000",
                "GODEL_MAX_KNOWLEDGE_CHARACTERS": "100000",
                "GODEL_TRACING": "true",
                "OTEL_EXPORTER_OTLP_ENDPOINT": address,
                "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
            }
        )
        yield process
        process.close()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def everything_that_a_user_does(client: httpx.Client, token: str) -> list[httpx.Response]:
    """Say the word everywhere; return what came back."""
    bot, session = "/v1/bots/bot", ""
    client.headers.update(
        bearer(token) | {"User-Agent": WORD, "Referer": f"https://{WORD}.example/{WORD}", "X-Word": WORD}
    )
    replies: list[httpx.Response] = []

    def do(method: str, path: str, **what: Any) -> httpx.Response:
        replies.append(client.request(method, path, **what))
        return replies[-1]

    short = {"max_length": 8, "min_length": 0}
    fields = {"knowledge": f"The {WORD} is blue.", "name": WORD, "instruction": f"Speak of {WORD}."}
    do("PUT", bot, json=fields)
    do("PATCH", bot, json={"name": f"{WORD} {WORD}", "parameters": short})
    session = do("POST", f"{bot}/sessions").json()["session_id"]
    do("POST", f"{bot}/chat", json={"message": f"What is {WORD}?", "session_id": session})
    do("POST", f"{bot}/chat", json={"message": f"What is {WORD}?", "stream": True})
    do("POST", f"{bot}/chat", json={"messages": [{"role": "user", "content": WORD}]})
    do("GET", f"{bot}/sessions/{session}")
    do("GET", f"{bot}/sessions")
    said = {"model": "bot", "messages": [{"role": "system", "content": WORD}, {"role": "user", "content": WORD}]}
    do("POST", "/v1/chat/completions", json=said | {"max_tokens": 8, "user": WORD})
    do("POST", "/v1/chat/completions", json=said | {"max_tokens": 8, "stream": True})
    do("GET", f"/bot/context/{WORD}?{WORD}={WORD}")
    do("GET", f"/bot/chat/{WORD}?{WORD}")
    do("PUT", f"{bot}/knowledge", files={"file": (f"{WORD}.txt", WORD.encode(), "text/plain")})
    do("PUT", f"{bot}/knowledge", files={"file": (f"{WORD}.pdf", pdf(WORD), "application/pdf")})
    # What fails.
    do("PUT", f"{bot}/knowledge", files={"file": (f"{WORD}.{WORD}", WORD.encode(), f"application/{WORD}")})
    do("PUT", f"{bot}/knowledge", files={"file": (f"{WORD}.pdf", f"%PDF-1.4 {WORD}".encode(), "application/pdf")})
    do(
        "PUT",
        f"{bot}/knowledge",
        content=f"{WORD} ".encode() * 9000 + b"x" * 100_000,
        headers={"Content-Type": "text/plain"},
    )
    do(
        "PUT",
        f"{bot}/knowledge",
        content=WORD.encode(),
        headers={"Content-Type": f"multipart/form-data; boundary={WORD}"},
    )
    do("PUT", bot, json={"knowledge": f"{WORD} " * 20_000, "name": f"{WORD} " * 100, "instruction": f"{WORD} " * 100})
    do("PUT", bot, json=[WORD])
    do("PUT", bot, json={"knowledge": [WORD], "name": {"a": WORD}, "limits": {"requests_per_minute": WORD}})
    do("PUT", bot, json=fields, headers={"If-Match": f'"{WORD}"'})
    do("PUT", f"/v1/bots/{WORD} {WORD}", json=fields)
    do("POST", f"{bot}/chat", content=f'{{"message": {WORD}'.encode(), headers={"Content-Type": "application/json"})
    do("POST", f"{bot}/chat", json={"message": WORD, "session_id": WORD})
    do("POST", f"{bot}/chat", json={"message": f"{WORD} " * 9000})
    do(
        "POST",
        f"{bot}/chat",
        json={"message": WORD, "parameters": dict.fromkeys(("max_length", "top_p", "do_sample"), WORD)},
    )
    do("POST", f"{bot}/chat", json={"message": WORD, "parameters": {"num_beams": 4}})
    do("POST", f"{bot}/chat", json={"message": WORD, "messages": [{"role": WORD, "content": WORD}]})
    do("POST", "/v1/chat/completions", json=said | {"model": "nobody"})
    do("POST", "/v1/chat/completions", json=said | {"temperature": WORD, "stop": [WORD]})
    do("GET", f"{bot}/sessions/{WORD}")
    do("GET", f"{bot}/sessions?limit={WORD}&after={WORD}")
    do("GET", f"/{WORD}/{WORD}/{WORD}")
    do("GET", f"/{WORD}%00/chat/{WORD}")
    do(WORD.upper(), bot)
    do("TRACE", f"{bot}?{WORD}")
    do("POST", "/v1/keys", json={"scope": WORD, "name": WORD}, headers=bearer(ADMIN_KEY))
    do("POST", "/v1/keys", json={"scope": "chat", "bots": [f"{WORD} {WORD}"]}, headers=bearer(ADMIN_KEY))
    do("GET", f"/v1/keys/{WORD}", headers=bearer(ADMIN_KEY))
    do("GET", "/v1/bots", headers=bearer(WORD))
    do("GET", "/v1/bots", headers=bearer(f"{token}{WORD}"))
    do("GET", "/v1/bots", headers={"Authorization": f"Basic {WORD}", "X-API-Key": f"{ADMIN_KEY}{WORD}"})
    do("DELETE", f"{bot}/sessions/{session}")
    return replies


def leave_a_stream(url: str, token: str) -> None:
    """Ask for a long answer and hang up in it."""
    said = {"message": WORD, "stream": True, "parameters": {"max_length": 250, "min_length": 250}}
    with httpx.stream("POST", f"{url}/v1/bots/bot/chat", json=said, headers=bearer(token), timeout=30) as response:
        next(response.iter_raw())


def kill_the_worker(client: httpx.Client, torchserve: TorchServe) -> httpx.Response:
    """Have the worker die while it answers; return what its client gets, once the next one is there."""
    (worker,) = torchserve.manage("GET", "/models/godel")[0]["workers"]
    os.kill(worker["pid"], signal.SIGSTOP)
    with (
        httpx.Client(base_url=client.base_url, headers=client.headers, timeout=30) as other,
        other.stream("POST", "/v1/bots/bot/chat", json={"message": WORD, "stream": True}) as response,
    ):
        os.kill(worker["pid"], signal.SIGKILL)
        response.read()
    end = time.monotonic() + 60
    while client.get("/readyz").status_code != 200:
        assert time.monotonic() < end, "the worker did not come back"
        time.sleep(0.2)
    return response


def test_no_word_and_no_key_is_in_any_log_trace_metric_or_error(
    guarded: TorchServe, gateway: GatewayProcess, collector: Collector
) -> None:
    with httpx.Client(base_url=gateway.url, timeout=60) as client:
        made = client.post("/v1/keys", json={"scope": "edit", "name": WORD}, headers=bearer(ADMIN_KEY)).json()
        token = made["token"]
        replies = everything_that_a_user_does(client, token)
        leave_a_stream(gateway.url, token)
        with socket.create_connection(("127.0.0.1", httpx.URL(gateway.url).port or 0)) as raw:
            raw.sendall(f"GET /bot/chat/{WORD}\x01 HTTP/1.1\r\n{WORD}\r\n\r\n".encode())
            assert b"400" in raw.recv(1000)
        for body in (
            WORD.encode(),
            f'{{"prompt": "{WORD}"}}'.encode(),
            f'{{"format_version": 1, "{WORD}": 1}}'.encode(),
        ):
            keys = keys_of(guarded)["inference"]
            replies.append(httpx.post(f"{guarded.inference_url}/predictions/godel", content=body, headers=keys))
        replies.append(kill_the_worker(client, guarded))
        metrics = client.get("/metrics").text + httpx.get(f"{guarded.metrics_url}/metrics").text
        rotated = client.post(f"/v1/keys/{made['key_id']}/rotate", json={}, headers=bearer(ADMIN_KEY)).json()["token"]
    gateway.terminate()
    assert gateway.wait() == 0
    failed = [reply for reply in replies if reply.status_code >= 400]
    assert len(failed) >= 30, sorted(reply.status_code for reply in replies)
    assert {400, 401, 404, 405, 412, 413, 415, 422} <= {reply.status_code for reply in failed}
    secrets = [WORD, ADMIN_KEY, token.split("_", 2)[2], rotated.split("_", 2)[2]]
    secrets += [header["Authorization"].removeprefix("Bearer ") for header in keys_of(guarded).values()]
    written = {
        path.name: path.read_text(encoding="utf-8", errors="replace")
        for path in guarded.logs.rglob("*")
        if path.is_file()
    }
    assert {"torchserve.log", "worker.log", "console.log"} <= written.keys()
    assert "refused: 400" in written["worker.log"], "the searched log is the one that is written"
    assert "caller=" in gateway.log
    assert collector.spans
    places = written | {"the gateway's log": gateway.log, "the metrics": metrics}
    places |= {f"a {reply.status_code} of {reply.request.url.path}": reply.text for reply in failed}
    places["the traces"] = b"".join(collector.bodies).decode("latin-1")
    for place, text in places.items():
        for secret in secrets:
            assert secret.lower() not in text.lower(), (
                f"{place}: ...{text[max(0, text.lower().find(secret.lower()) - 80) :][:200]}"
            )
