"""The whole stack beside the naive app, over HTTP: the same requests, sampled, with a forced number of new tokens."""

import contextlib
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import httpx
import psutil

from bench.checkpoints import BUILD, ROOT, checkpoint
from bench.clients import Load, Service, ask
from bench.engines import Plan, vocabulary
from bench.interleaved import PAUSE_SECONDS
from bench.overhead import measure_overhead
from bench.prompts import words
from handler.contract.prompt import render
from handler.tokenization import Tokenization
from launcher.processes import Child
from launcher.stack import Stack
from launcher.trial import trial_stack
from training.archive import build_archive, is_stale

START_SECONDS: Final = 120
MESSAGE_WORDS: Final = 8
SINGLE_PAIRS: Final = 10
REQUESTS_EACH: Final = 2
CLIENTS: Final = 16


def archive(plan: Plan) -> Path:
    """Return the archive of the base checkpoint, built unless it is what these inputs would give."""
    path = BUILD / "archives" / f"{plan.base}-{plan.engine}-{plan.precision}.mar"
    model = str(checkpoint(plan.base).relative_to(ROOT))
    choice = {"engine": plan.engine, "precision": plan.precision, "name": "godel", "version": "1.0"}
    if is_stale(path, model, **choice):
        build_archive(model, path, **choice)
    return path


@contextlib.contextmanager
def naive_app(folder: Path) -> Iterator[tuple[str, int]]:
    """Yield address and process id of a running naive app over a checkpoint folder."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "bench.baseline_app", "--model", str(folder), "--port", str(port)]
    app = Child(command, environment=os.environ, cwd=ROOT)
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"{url}/healthz").raise_for_status()
                break
            if app.exit_code is not None or time.monotonic() > end:
                raise RuntimeError("the naive app did not start; its last line above says why")
            time.sleep(0.1)
        yield url, app.pid
    finally:
        app.end(5)


def knowledge_for(plan: Plan) -> str:
    """Return the knowledge that makes a prompt of exactly the plan's tokens with a message of MESSAGE_WORDS."""
    tokenizer = Tokenization(checkpoint(plan.base) / "tokenizer.json")
    around = len(tokenizer.encode(render(["w"], "w"))) - 2  # the instruction, the tags and the end
    return words(plan.prompt_tokens - around - MESSAGE_WORDS, vocabulary(plan.base), seed=0)


def messages(plan: Plan, clients: int, each: int) -> list[list[str]]:
    """Return what each of `clients` asks, all different."""
    return [
        [words(MESSAGE_WORDS, vocabulary(plan.base), seed=1000 * client + number + 1) for number in range(each)]
        for client in range(clients)
    ]


def services(plan: Plan, stack: Stack, naive_url: str) -> tuple[Service, Service]:
    """Return our stack, its bot made, and the naive app, to be asked the same."""
    knowledge = knowledge_for(plan)
    bot = f"{stack.gateway_url}/v1/bots/bench"
    httpx.put(bot, json={"knowledge": knowledge}, timeout=60).raise_for_status()
    sampling = {"do_sample": True, "top_p": 0.9, "min_length": plan.new_tokens, "max_length": plan.new_tokens}
    work = {"prompt_tokens": plan.prompt_tokens, "new_tokens": plan.new_tokens}
    ours = Service(name="ours", url=f"{bot}/chat", body={"parameters": sampling}, **work)
    theirs = Service(name="baseline_app", url=f"{naive_url}/chat", body={"knowledge": knowledge, **sampling}, **work)
    return ours, theirs


def alternate(pair: Sequence[Service], asked: list[list[str]], count: int) -> dict[str, list[Load]]:
    """Ask each service in turn `count` times."""
    loads: dict[str, list[Load]] = {service.name: [] for service in pair}
    for _ in range(count):
        for service in pair:
            time.sleep(PAUSE_SECONDS)
            loads[service.name].append(ask(service, asked))
    return loads


def measure_stack(plan: Plan) -> dict[str, Any]:
    """Return latencies, throughput, memory and overhead of the stack, and the naive app's beside them."""
    served = archive(plan)
    with contextlib.ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        stack = opened.enter_context(trial_stack(folder, served))
        url, naive_pid = opened.enter_context(naive_app(checkpoint(plan.base)))
        pair = services(plan, stack, url)
        alternate(pair, messages(plan, 1, 1), 2)  # warms both up
        single = alternate(pair, messages(plan, 1, 1), SINGLE_PAIRS)
        many = alternate(pair, messages(plan, CLIENTS, REQUESTS_EACH), plan.c16_rounds)
        memory = memory_mb(stack, naive_pid)
        questions = messages(plan, 1, 3)[0]
        overhead = measure_overhead(
            stack, served, folder, knowledge_for(plan), questions, rounds=5, new_tokens=plan.new_tokens
        )
    return {
        "c1_seconds": {name: [load.seconds for load in loads] for name, loads in single.items()},
        "c1_p50": {name: statistics.median(load.seconds for load in loads) for name, loads in single.items()},
        "c16_tokens_per_second": {name: [load.tokens_per_second for load in loads] for name, loads in many.items()},
        "c16_p95": {name: [load.p95 for load in loads] for name, loads in many.items()},
        "memory_mb": memory,
        "overhead": overhead,
    }


def memory_mb(stack: Stack, naive_pid: int) -> dict[str, float]:
    """Return the worker's peak and present resident memory, and proportional sizes (PSS: a share of shared pages)."""
    (worker,) = httpx.get(f"{stack.gateway_url}/v1/model", timeout=60).json()["workers"]
    roots = [pid for pid in (stack.torchserve.pid, stack.gateway_pid) if pid is not None]
    return {
        "worker_peak_rss": _peak_rss(worker["pid"]),
        "worker_pss": psutil.Process(worker["pid"]).memory_full_info().pss / 2**20,
        "worker_rss": psutil.Process(worker["pid"]).memory_info().rss / 2**20,
        "stack_pss": sum(_tree_pss(pid) for pid in roots),
        "baseline_app_peak_rss": _peak_rss(naive_pid),
        "baseline_app_pss": _tree_pss(naive_pid),
    }


def _tree_pss(pid: int) -> float:
    process = psutil.Process(pid)
    tree = [process, *process.children(recursive=True)]
    return sum(float(each.memory_full_info().pss) for each in tree) / 2**20


def _peak_rss(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
