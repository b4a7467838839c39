"""What the gateway adds to a request: clients ask a model that takes a known time, directly and through it.

`python -m bench.gateway` starts a gateway before a model that takes 50 to 150 ms, and lets 8 clients ask both in
turn, without a pause. What a request takes beyond the model's own time, less that of the direct way, is the gateway's.
Each round asks in several ways: stateless, in a session, streamed; meanwhile a process of its own asks the probes.
Prints a table and a last JSON line. `--database-url` takes PostgreSQL's.

Client, model and gateway share the machine, so what is waited for grows with all that it does. The processor time that
each of them spends on a request says which of them it was.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from starlette.types import Receive, Scope, Send

from bench.machine import machine
from handler.contract.wire import GenerateReply, GenerateRequest, encode_part

ROOT = Path(__file__).parent.parent
MODEL_SECONDS = (0.05, 0.15)
"""Answers differ in length. If all took the same time, all clients would ask in the same instant, again and again."""

KEY = "a key for this benchmark alone"
WORDS = ("Eleven ", "players ", "are ", "in ", "each ", "team.")

Ask = Callable[[int], Awaitable[float]]
"""Asks as the client of that number; returns how many milliseconds the model says that it took."""


async def model(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer as TorchServe does, some time after the question; a stream comes word by word over that time."""
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])  # what ASGI asks of an app that knows no lifespan
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    if scope["method"] == "GET":
        state = [{"modelName": "godel", "workers": [{"id": "9000", "status": "READY", "pid": 1}]}]
        await send({"type": "http.response.body", "body": json.dumps(state).encode()})
        return
    request = GenerateRequest.decode(body)
    start, seconds = time.perf_counter(), random.uniform(*MODEL_SECONDS)
    for word in WORDS:
        await asyncio.sleep(seconds / len(WORDS))
        if request.stream:
            await send({"type": "http.response.body", "body": encode_part(word), "more_body": True})
    reply = GenerateReply(
        request_id=request.request_id,
        text="".join(WORDS),
        finish_reason="stop",
        prompt_tokens=450,
        completion_tokens=len(WORDS),
        queue_ms=0.0,
        compute_ms=(time.perf_counter() - start) * 1e3,
        batch_size=8,
    )
    await send({"type": "http.response.body", "body": reply.encode() + b"\n"})


@contextlib.contextmanager
def started(command: list[str], environment: Mapping[str, str], pattern: str) -> Iterator[tuple[str, psutil.Process]]:
    """Run `command` until the end of the block; yield what `pattern` finds in its log, and the process."""
    with tempfile.NamedTemporaryFile() as log:  # a pipe that nobody reads would fill up and stop it
        process = subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, env=os.environ | environment, stderr=log)
        try:
            while not (found := re.search(pattern, Path(log.name).read_text())):
                if process.poll() is not None:
                    raise SystemExit(Path(log.name).read_text())
                time.sleep(0.05)
            yield found[1], psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait()


async def timed(clients: int, rounds: int, ask: Ask) -> list[float]:
    """Return the milliseconds of `rounds` questions of each client, all clients at once, less the model's own."""
    taken: list[float] = []

    async def one(number: int) -> None:
        for _ in range(rounds):
            start = time.perf_counter()
            own = await ask(number)
            taken.append((time.perf_counter() - start) * 1e3 - own)

    await asyncio.gather(*(one(number) for number in range(clients)))
    return taken


class Prober:
    """A process that asks the gateway's probes while it is told to (bench/probe.py)."""

    def __init__(self, gateway: str) -> None:
        command = [sys.executable, "-m", "bench.probe", gateway]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        """Ask as long as the block runs."""
        self._switch()
        try:
            yield
        finally:
            self._switch()

    def _switch(self) -> None:
        if self._process.stdin is None:
            raise AssertionError("it was started with a pipe")
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def times(self) -> dict[str, list[float]]:
        """End it; return the milliseconds that each probe took."""
        said, _ = self._process.communicate(timeout=60)
        if self._process.returncode:
            raise SystemExit("a probe failed")
        return dict(json.loads(said))


async def measure(
    gateway: str, torchserve: str, processes: Mapping[str, psutil.Process], clients: int, repeats: int
) -> dict[str, Any]:
    """Return the milliseconds of every way to ask, round by round in turn, and of the probes; and the milliseconds of
    processor time of each process, by way.
    """
    knowledge = (ROOT / "examples/cricket.txt").read_text(encoding="utf-8")
    async with client_of(gateway, clients) as http, client_of(torchserve, clients) as direct:

        async def told(method: str, path: str, **said: Any) -> str:
            async with http.request(method, path, **said) as response:
                return await response.text()

        await told("PUT", "/v1/bots/b", json={"knowledge": knowledge})
        sessions = [json.loads(await told("POST", "/v1/bots/b/sessions"))["session_id"] for _ in range(clients)]
        numbers = itertools.count(1)  # no question twice: what was counted once is remembered
        prompt = GenerateRequest(prompt=knowledge, request_id="r").encode()

        async def ask(**more: Any) -> float:
            said = {"message": f"How many players are in each team? That is my question number {next(numbers)}."} | more
            answer = json.loads((await told("POST", "/v1/bots/b/chat", json=said)).rpartition("data: ")[2])
            return float(answer["timing"]["compute_ms"])  # of a stream the last event has it

        async def to_model(_: int) -> float:
            async with direct.post("/predictions/godel", data=prompt) as response:
                return float((await response.json())["compute_ms"])

        ways: dict[str, Ask] = {
            "model alone": to_model,
            "stateless": lambda _: ask(),
            "in a session": lambda number: ask(session_id=sessions[number]),
            "streamed": lambda _: ask(stream=True),
        }
        taken: dict[str, list[float]] = {name: [] for name in ways}
        spent: dict[str, dict[str, float]] = {name: dict.fromkeys(processes, 0.0) for name in ways}
        for way in ways.values():
            await timed(clients, 3, way)  # warm up
        await told("GET", "/readyz")  # the first one waits for a canary's answer
        prober = Prober(gateway)
        for _ in range(repeats):
            for name, way in ways.items():
                with contextlib.nullcontext() if name == "model alone" else prober.asking():
                    before = {process: processor_ms(it) for process, it in processes.items()}
                    taken[name] += await timed(clients, 10, way)
                    for process, it in processes.items():
                        spent[name][process] += processor_ms(it) - before[process]
    return {"ways": taken, "probes": prober.times(), "spent": spent}


def client_of(url: str, clients: int) -> aiohttp.ClientSession:
    """Return what asks `url` for so many clients; httpx's would take more of the cores that all of them share."""
    return aiohttp.ClientSession(
        url,
        headers={"X-API-Key": KEY},
        raise_for_status=True,
        timeout=aiohttp.ClientTimeout(60),
        connector=aiohttp.TCPConnector(limit=clients + 2),
    )


def processor_ms(process: psutil.Process) -> float:
    """Return how many milliseconds of processor time the threads of `process` have had."""
    times = process.cpu_times()
    return float(times.user + times.system) * 1e3


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--database-url")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        served = ["uvicorn", "bench.gateway:model", "--port", "0", "--log-level", "info", "--no-access-log"]
        with started(served, {}, r"(http://127\.0\.0\.1:\d+)") as (torchserve, model_process):
            environment = {
                "GODEL_PORT": "0",
                "GODEL_ADMIN_KEY": KEY,
                "GODEL_INFERENCE_URL": torchserve,
                "GODEL_MANAGEMENT_URL": torchserve,
                "GODEL_DATABASE_URL": options.database_url or f"sqlite:///{scratch}/bots.db",
                "GODEL_LOG_LEVEL": "info",
            }
            with started(["gateway"], environment, r"listening on (\S+)") as (gateway, gateway_process):
                processes = {"gateway": gateway_process, "model": model_process, "clients": psutil.Process()}
                measured = asyncio.run(measure(gateway, torchserve, processes, options.clients, options.repeats))
    alone = statistics.median(measured["ways"].pop("model alone"))
    over = {name: round(statistics.median(taken) - alone, 2) for name, taken in measured["ways"].items()}
    whole = round(statistics.median(itertools.chain.from_iterable(measured["ways"].values())) - alone, 2)
    probes = {
        path: {"median": round(statistics.median(taken), 2), "worst": round(max(taken), 2), "asked": len(taken)}
        for path, taken in measured["probes"].items()
    }
    each = {
        way: {process: round(spent / len(measured["ways"][way]), 2) for process, spent in by_process.items()}
        for way, by_process in measured["spent"].items()
        if way in over
    }
    print(
        f"{options.clients} clients; the model directly: {alone:.2f} ms beside its own time; the gateway adds, median:"
    )
    for name, milliseconds in over.items():
        print(f"  {name:14} {milliseconds:6.2f} ms; processor time: {in_words(each[name])}")
    print(f"  {'of all three':14} {whole:6.2f} ms")
    for path, seen in probes.items():
        print(f"  {path:14} {seen['median']:6.2f} ms, at worst {seen['worst']:.1f} ms of {seen['asked']}")
    numbers = {
        "direct_ms": round(alone, 2),
        "over_ms": over,
        "over_all_ms": whole,
        "processor_ms": each,
        "probes_ms": probes,
    }
    print(json.dumps({"machine": machine()} | numbers))


def in_words(by_process: Mapping[str, float]) -> str:
    """Return milliseconds by process as a person reads them."""
    return ", ".join(f"{process} {milliseconds:.2f} ms" for process, milliseconds in by_process.items())


if __name__ == "__main__":
    main()
