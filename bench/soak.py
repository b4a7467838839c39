"""Mixed load on a whole stack for a chosen time: what it answers, whom it refuses, whether anything leaks.

`python -m bench.soak --minutes 10` starts a TorchServe and a gateway of its own from `model_store/godel.mar`, makes a
bot for each of a bounded number of people and goes in cycles: a closed loop, which finds the capacity; then people
who come at random at 1x, 2x and 10x of it; then rest, when memory, files, threads, slots and queues are read.

Every answer is checked against its own bot, every session is read back in the end. Prints tables and a last JSON line;
exits with 1 when a promise was broken: a turn lost or mixed up, an answer of another bot, a 5xx other than 503, a
refusal without Retry-After, something that hangs, or grows beyond its bound. `--url` takes a stack that runs already,
on this machine alone; bots called `soak-0` and so on are made there, and deleted in the end.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx
import psutil

from bench.load.actions import Town, read_back, settle
from bench.load.arrivals import Crowd
from bench.load.people import MOST_PEOPLE, BrokenPromise, people
from bench.load.report import Findings, Rest, as_json, tables
from bench.load.vitals import Instruments, Processes
from bench.machine import machine
from gateway.loopback import is_loopback
from launcher.trial import ARCHIVE, trial_stack

CLOSED_CLIENTS: Final = 16
"""One for each of the worker's slots: enough to fill them at all times."""

FILL: Final = 0.04
"""The share of a run in which prompts of all lengths are read first."""

SHARES: Final = {"closed": 0.2, "1x": 0.3, "2x": 0.25, "10x": 0.25}
"""Of the time of a cycle that is not rest."""

MULTIPLES: Final = {"1x": 1.0, "2x": 2.0, "10x": 10.0}
WARM_UP: Final = 0.25
"""The share of a run whose rests say nothing about leaks: caches and heaps fill up."""

REST_READINGS: Final = 3
WATCH_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is asked for."""

    minutes: float
    seed: int
    clients: int
    cycle: float
    """Seconds."""
    rest_share: float


async def soak(plan: Plan, instruments: Instruments, say: Callable[[str], None]) -> Findings:
    """Run the plan against the stack behind `instruments`; return what was found.

    Raises httpx.HTTPError when the bots cannot be made.
    """
    run = _Run(plan, instruments, say)
    await asyncio.gather(*(settle(run.town, person) for person in run.people))
    try:
        await run.cycles()
        await run.read_all_back()
    finally:
        for person in run.people:
            with contextlib.suppress(httpx.HTTPError):
                await instruments.http.delete(f"/v1/bots/{person.bot_id}")
    return run.findings()


class _Run:
    def __init__(self, plan: Plan, instruments: Instruments, say: Callable[[str], None]) -> None:
        self._plan, self._instruments, self._say = plan, instruments, say
        self.people = people(plan.clients, plan.seed)
        self.town = Town(instruments.http)
        self._crowd = Crowd(self.town, self.people, plan.seed)
        self._start = time.monotonic()
        self._capacities: list[float] = []
        self._rests: list[Rest] = []
        self._peaks: dict[str, float] = {}
        self._processes: Processes | None = None

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._start

    async def cycles(self) -> None:
        """Go on until the time is over; at least one cycle."""
        self._processes = await self._instruments.processes()
        await self._read_prompts(FILL * self._plan.minutes * 60)
        end = self._plan.minutes * 60
        while not self._rests or self._seconds + self._plan.cycle / 2 < end:
            await self._cycle()

    async def _read_prompts(self, seconds: float) -> None:
        """Have prompts of all lengths read, many at a time: the worker keeps what it takes for them.

        The people's own are short: it would take them a quarter of an hour to fill its heap (handler/engines/heap.py)
        and its caches.
        """
        end, dice, answered = self._seconds + seconds, random.Random(self._plan.seed), 0

        async def read() -> None:
            nonlocal answered
            while self._seconds < end:
                knowledge = " ".join(f"Room {dice.randrange(1000)} is empty." for _ in range(dice.randrange(1, 80)))
                messages = [{"role": "system", "content": knowledge}, {"role": "user", "content": "Which is empty?"}]
                said = {"model": dice.choice(self.people).bot_id, "messages": messages, "max_tokens": 16}
                with contextlib.suppress(httpx.HTTPError):  # those who count their answers come later
                    reply = await self._instruments.http.post("/v1/chat/completions", json=said)
                    answered += reply.is_success

        await asyncio.gather(*(read() for _ in range(CLOSED_CLIENTS)))
        self._say(f"{answered} prompts of all lengths were answered first")

    async def _cycle(self) -> None:
        loaded = self._plan.cycle * (1 - self._plan.rest_share)
        watching = asyncio.ensure_future(self._watch())
        try:
            clients = min(CLOSED_CLIENTS, self._plan.clients)
            self._capacities.append(await self._crowd.closed("closed", clients, loaded * SHARES["closed"]))
            rate = sorted(self._capacities[-3:])[len(self._capacities[-3:]) // 2]
            for phase, multiple in MULTIPLES.items():
                await self._crowd.open(phase, max(0.1, rate * multiple), loaded * SHARES[phase])
            await self._crowd.drain()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        self._rests.append((self._seconds, await self._rest()))
        seen = self._rests[-1][1]
        self._say(
            f"{self._seconds / 60:5.1f} min: {self._capacities[-1]:.1f}/s; at rest: "
            + ", ".join(f"{name} {value:.1f}" for name, value in seen.items() if "memory" in name or "files" in name)
            + f"; broken {self._crowd.broken}"
        )

    async def _rest(self) -> dict[str, float]:
        """Do nothing, then read; the least of some readings, for a reading costs memory and files itself."""
        await asyncio.sleep(self._plan.cycle * self._plan.rest_share)
        await self._check_processes()
        # One answer more: the worker tells how many slots are taken when it gives one.
        await self._crowd.closed("closed", 1, 0.01)
        readings = []
        for _ in range(REST_READINGS):
            with contextlib.suppress(httpx.HTTPError, psutil.Error):
                readings.append(await self._instruments.read(await self._instruments.processes()))
            await asyncio.sleep(0.2)
        if not readings:
            self._crowd.found("at rest the stack could not be read")
            return {}
        return {name: min(reading.get(name, value) for reading in readings) for name, value in readings[0].items()}

    async def _check_processes(self) -> None:
        with contextlib.suppress(httpx.HTTPError):
            now = await self._instruments.processes()
            if self._processes is not None and now.ids != self._processes.ids:
                self._crowd.found(f"processes changed from {self._processes.ids} to {now.ids}")
            self._processes = now

    async def _watch(self) -> None:
        """Keep the most that is seen of everything, until cancelled."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if self._processes is not None:
                with contextlib.suppress(httpx.HTTPError, psutil.Error):
                    for name, value in (await self._instruments.read(self._processes)).items():
                        self._peaks[name] = max(self._peaks.get(name, 0.0), value)

    async def read_all_back(self) -> None:
        """Read every session and every bot back."""
        checks: list[Callable[[], Awaitable[None]]] = [
            lambda person=person, session=session: read_back(self.town, person, session)  # type: ignore[misc]  # defaults bind the loop
            for person, session in self.town.past
        ]
        for check in checks:
            try:
                await check()
            except BrokenPromise as broken:
                self._crowd.found(str(broken))
            except Exception as error:  # a session that cannot be read is lost, whatever the reason
                self._crowd.found(f"a session cannot be read back: {error}")

    def findings(self) -> Findings:
        """Return all that was seen."""
        return Findings(
            minutes=self._seconds / 60,
            capacities=self._capacities,
            tallies=dict(self._crowd.tallies),
            rests=self._rests,
            peaks=self._peaks,
            warm_up=WARM_UP * self._seconds,
            sessions=len(self.town.past),
            exchanges=sum(len(session.acknowledged) for _, session in self.town.past),
            broken=self._crowd.broken,
            broken_first=self._crowd.findings,
            mistakes=self.town.mistakes,
        )


async def _against(url: str, plan: Plan, torchserve_metrics: str | None, folder: Path | None) -> Findings:
    key = os.environ.get("GODEL_API_KEY")
    limits = httpx.Limits(max_connections=plan.clients + 8, max_keepalive_connections=plan.clients + 8)
    async with httpx.AsyncClient(
        base_url=url, timeout=120, limits=limits, trust_env=False, headers={"X-API-Key": key} if key else {}
    ) as http:
        instruments = Instruments(http=http, torchserve_metrics=torchserve_metrics, folder=folder)
        return await soak(plan, instruments, lambda line: print(f"soak: {line}", file=sys.stderr, flush=True))


def _loopback(url: str) -> str:
    if not is_loopback(urlsplit(url).hostname or ""):
        raise argparse.ArgumentTypeError(f"{url} is not on this machine; a load of ten times its capacity is no favour")
    return url.rstrip("/")


def main() -> int:
    """Run from the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of arrivals and choices (default: %(default)s)")
    parser.add_argument(
        "--clients", type=int, default=MOST_PEOPLE, help="most at a time (default, and most: %(default)s)"
    )
    parser.add_argument("--cycle", type=float, help="seconds (default: a twelfth of the time, from 10 to 60)")
    parser.add_argument("--rest-share", type=float, default=0.2, help="of each cycle (default: %(default)s)")
    parser.add_argument("--url", type=_loopback, help="a running gateway on this machine, instead of one of its own")
    parser.add_argument("--archive", type=Path, default=ARCHIVE, help="what its own serves (default: the one built)")
    parser.add_argument("--output", type=Path, help="file for the JSON, too")
    options = parser.parse_args()
    plan = Plan(
        minutes=options.minutes,
        seed=options.seed,
        clients=options.clients,
        cycle=options.cycle or min(60.0, max(10.0, options.minutes * 60 / 12)),
        rest_share=options.rest_share,
    )
    os.environ.setdefault("GODEL_LOG_LEVEL", "warning")  # the gateway's lines would be all there is to see
    if options.url:
        found = asyncio.run(_against(options.url, plan, None, None))
    else:
        with tempfile.TemporaryDirectory() as scratch, trial_stack(Path(scratch), options.archive) as stack:
            found = asyncio.run(_against(stack.gateway_url, plan, stack.torchserve.metrics_url, Path(scratch)))
    result = as_json(found) | {"seed": plan.seed, "clients": plan.clients, "machine": machine()}
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(tables(found), json.dumps(result), sep="\n\n")
    return 0 if found.kept else 1


if __name__ == "__main__":
    sys.exit(main())
