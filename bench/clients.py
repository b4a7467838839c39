"""Clients of a chat service over HTTP, each asking its next question when the last is answered."""

import asyncio
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx


class WorkDiffersError(RuntimeError):
    """A service did other work than it was asked; its times mean nothing then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Where to ask, what goes along with each message, and the work that an answer must own up to."""

    name: str
    url: str
    body: Mapping[str, Any]
    prompt_tokens: int
    new_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What some clients saw; latencies in seconds."""

    seconds: float
    latencies: list[float]
    new_tokens: int

    @property
    def tokens_per_second(self) -> float:
        """New tokens a second, all clients together."""
        return self.new_tokens / self.seconds

    @property
    def p95(self) -> float:
        """The 95th percentile of the latencies; the only latency when there is one."""
        if len(self.latencies) == 1:
            return self.latencies[0]
        return statistics.quantiles(self.latencies, n=20, method="inclusive")[-1]


def ask(service: Service, messages: list[list[str]]) -> Load:
    """Have client i ask `messages[i]` one after another, all clients at once. Raises WorkDiffersError or HTTPError."""
    return asyncio.run(_ask(service, messages))


async def _ask(service: Service, messages: list[list[str]]) -> Load:
    limits = httpx.Limits(max_connections=len(messages))
    async with httpx.AsyncClient(timeout=300, limits=limits) as http:

        async def client(own: list[str]) -> list[float]:
            latencies = []
            for message in own:
                start = time.perf_counter()
                reply = await http.post(service.url, json={"message": message, **service.body})
                latencies.append(time.perf_counter() - start)
                _check(service, reply.raise_for_status().json()["usage"])
            return latencies

        start = time.perf_counter()
        seen = await asyncio.gather(*(client(own) for own in messages))
        seconds = time.perf_counter() - start
    latencies = [latency for own in seen for latency in own]
    return Load(seconds=seconds, latencies=latencies, new_tokens=service.new_tokens * len(latencies))


def _check(service: Service, usage: Mapping[str, int]) -> None:
    done = usage["prompt_tokens"], usage["completion_tokens"]
    if done != (service.prompt_tokens, service.new_tokens):
        raise WorkDiffersError(
            f"{service.name} did other work: {done[0]} prompt and {done[1]} new tokens,"
            f" asked {service.prompt_tokens} and {service.new_tokens}"
        )
