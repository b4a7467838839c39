"""How many instances for how many people, what a thousand replies cost, what is full first: a simulation.

`python -m bench.capacity` takes what `make bench` has measured (a file of bench/results), shows the simulation beside
measurements it was not made from, then answers for 100, 10,000 and 1,000,000 people a day. Prices, the people's
habits and everything about GPUs are assumptions; each is an option or stands in the table as such. The last line is
JSON.
"""

import argparse
import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.simulation.demand import Demand
from bench.simulation.service import RESULTS, Accelerator, Service, assumed, read_results
from bench.simulation.stack import Lengths, Work, closed_loop, open_loop

USERS: Final = (100, 10_000, 1_000_000)
REQUESTS: Final = 3000
"""How many a simulated rate is judged by, at least: the 95th percentile then rests on 150 of them."""

SHORTEST: Final = 100.0
"""Seconds that a rate is kept up, at least: many times the queue's bound, so that it cannot hide in the queue."""

GATEWAYS: Final = 64
"""Before one instance, while it is judged: gateways are added as needed, and counted apart."""

MAX_QUEUE_SECONDS: Final = 5.0
"""The gateway's own default."""

REFUSED: Final = 0.005
"""The largest share that may be refused."""

GPUS: Final = (
    Accelerator(name="a small GPU (300 GB/s, 120 TFLOP/s)", bytes_per_second=300e9, flops=120e12),
    Accelerator(name="a large GPU (3.3 TB/s, 990 TFLOP/s)", bytes_per_second=3.3e12, flops=990e12),
)
"""Data sheets of the kind of NVIDIA's L4 and H100; no figure of ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """An instance and what an hour of it costs: an assumption, in whatever currency."""

    service: Service
    price: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """An instance at a rate."""

    rate: float
    p95: float
    refused: float
    busy: dict[str, float]
    """The share of the time in which each part is at work."""


def judge(service: Service, rate: float, lengths: Lengths, seed: int = 0) -> Judged:
    """Return how one instance does with `rate` questions a second."""
    seconds = max(SHORTEST, REQUESTS / rate)
    seen = open_loop(service, rate, seconds, lengths, seed=seed, gateways=GATEWAYS, max_queue_seconds=MAX_QUEUE_SECONDS)
    p95 = statistics.quantiles(seen.latencies, n=20, method="inclusive")[-1]
    busy = {name: value / seen.seconds for name, value in seen.busy.items()}
    return Judged(rate=rate, p95=p95, refused=seen.refused / (seen.refused + len(seen.latencies)), busy=busy)


def largest_rate(service: Service, goal: float, lengths: Lengths) -> Judged | None:
    """Return the most questions a second that one instance answers with 95 % within `goal`; None if not even one
    at a time.
    """

    def good(judged: Judged) -> bool:
        return judged.p95 <= goal and judged.refused <= REFUSED

    low = judge(service, 0.01, lengths)
    if not good(low):
        return None
    rate = 0.1
    while good(found := judge(service, rate, lengths)):
        low, rate = found, rate * 2
    high = rate
    while high / low.rate > 1.03:
        found = judge(service, math.sqrt(low.rate * high), lengths)
        low, high = (found, high) if good(found) else (low, found.rate)
    return low


def optimism(results: dict[str, Any], service: Service) -> float:
    """Return by how many times the simulated stack does more than the measured one: the cores that engine, Java and
    gateway share, and what else it leaves out. Rates are divided by it.
    """
    tokens = compared_under_load(results, service)["tokens_per_second"]
    return max(1.0, tokens["simulated"] / tokens["measured"])


def instances_by_hour(demand: Demand, rate: float) -> list[int]:
    """Return how many instances each hour of a day needs, when each takes `rate`; at least one."""
    return [max(1, math.ceil(demand.rate(hour) / rate)) for hour in range(len(demand.curve))]


def answers(offer: Offer, goal: float, lengths: Lengths, questions: float, too_much: float) -> dict[str, Any]:
    """Return instances, cost and bottleneck for each of USERS; the simulation promises `too_much` times what is."""
    best = largest_rate(offer.service, goal, lengths)
    if best is None:
        return {"service": offer.service.name, "rate": None}
    rate = best.rate / too_much
    rows = []
    for users in USERS:
        demand = Demand(users=users, questions=questions)
        hours = instances_by_hour(demand, rate)
        thousands = demand.daily / 1000
        rows.append(
            {
                "users": users,
                "peak_per_second": round(demand.peak, 3),
                "instances": max(hours),
                "cost_per_thousand": round(max(hours) * len(hours) * offer.price / thousands, 4),
                "cost_per_thousand_by_the_hour": round(sum(hours) * offer.price / thousands, 4),
                "gateways": max(1, math.ceil(demand.peak * _gateway_seconds(offer.service, lengths) / 0.7)),
                "writes_per_second": round(demand.peak * lengths.sessions, 2),
            }
        )
    return {
        "service": offer.service.name,
        "source": offer.service.source,
        "price_per_hour": offer.price,
        "rate": round(rate, 2),
        "p95": round(best.p95, 2),
        "busy": {name: round(share, 3) for name, share in best.busy.items()},
        "rows": rows,
        "limits_per_second": _limits(offer.service, best, lengths, too_much),
    }


def _gateway_seconds(service: Service, lengths: Lengths) -> float:
    return service.gateway + lengths.sessions * service.session


def _limits(service: Service, best: Judged, lengths: Lengths, too_much: float) -> dict[str, float]:
    """Return at how many questions a second each part alone is full."""
    return {
        "model, one instance": round(best.rate / best.busy["model"] / too_much, 1),
        "gateway, one process": round(1 / _gateway_seconds(service, lengths), 1),
        "database, one writer": round(1 / (service.write * lengths.sessions), 1),
    }


def compared(results: dict[str, Any], service: Service) -> list[dict[str, float]]:
    """Return what the sweep over clients has measured over HTTP, and what the simulation says, seconds until all of
    them have an answer. The simulation knows of it only the engine's sweeps and the stack's overhead of one client.
    """
    plan = results["plan"]
    work = Work(plan["prompt_tokens"], plan["new_tokens"])
    rows = []
    for clients, measured in sorted((int(n), seconds) for n, seconds in results["sweep"]["clients"]["ours"].items()):
        _, simulated = closed_loop(service, clients, 1, work)
        rows.append({"clients": clients, "measured": round(measured, 3), "simulated": round(simulated, 3)})
    return rows


def compared_under_load(results: dict[str, Any], service: Service) -> dict[str, dict[str, float]]:
    """Return tokens a second and the 95th percentile of 16 clients with two questions each, measured and simulated."""
    plan, stack = results["plan"], results["stack"]
    seen, seconds = closed_loop(service, 16, 2, Work(plan["prompt_tokens"], plan["new_tokens"]))
    return {
        "tokens_per_second": {
            "measured": round(statistics.median(stack["c16_tokens_per_second"]["ours"]), 1),
            "simulated": round(32 * plan["new_tokens"] / seconds, 1),
        },
        "p95": {
            "measured": round(statistics.median(stack["c16_p95"]["ours"]), 2),
            "simulated": round(statistics.quantiles(seen.latencies, n=20, method="inclusive")[-1], 2),
        },
    }


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="of make bench (default: %(default)s)")
    parser.add_argument("--goal", type=float, default=5.0, help="seconds for 95 %% of answers (default: %(default)s)")
    parser.add_argument("--questions", type=float, default=10.0, help="a person asks a day (default: %(default)s)")
    parser.add_argument("--mean-answer", type=int, default=30, help="tokens of an answer (default: %(default)s)")
    parser.add_argument("--price-cpu", type=float, default=0.08, help="of two cores an hour (default: %(default)s)")
    parser.add_argument("--price-small-gpu", type=float, default=0.8, help="an hour (default: %(default)s)")
    parser.add_argument("--price-large-gpu", type=float, default=3.0, help="an hour (default: %(default)s)")
    options = parser.parse_args()
    results = read_results(options.results)
    cpu = Service.measured(results)
    lengths = Lengths(mean_answer=options.mean_answer)
    offers = [
        Offer(service=cpu, price=options.price_cpu),
        Offer(service=assumed(GPUS[0]), price=options.price_small_gpu),
        Offer(service=assumed(GPUS[1]), price=options.price_large_gpu),
    ]
    clients, load = compared(results, cpu), compared_under_load(results, cpu)
    too_much = optimism(results, cpu)
    found = [answers(offer, options.goal, lengths, options.questions, too_much) for offer in offers]
    print(f"simulated beside measured ({cpu.source}); seconds until every client has an answer")
    for row in clients:
        off = row["simulated"] / row["measured"] - 1
        pair = f"{row['measured']:7.2f} measured {row['simulated']:7.2f} simulated"
        print(f"  {row['clients']:3} clients  {pair} {off:+6.0%}")
    for name, both in load.items():
        off = both["simulated"] / both["measured"] - 1
        print(f"  16 clients, {name}: {both['measured']} measured, {both['simulated']} simulated {off:+.0%}")
    print(f"rates below are divided by {too_much:.2f}, by which the simulation promises too much")
    for answer in found:
        print(_table(answer, options.goal))
    whole = {"goal": options.goal, "questions": options.questions, "clients": clients, "load": load, "answers": found}
    print(json.dumps(whole))


def _table(answer: dict[str, Any], goal: float) -> str:
    if answer["rate"] is None:
        return f"\n{answer['service']}: not even one question at a time is answered within {goal:g} s"
    lines = [
        "",
        f"{answer['service']} ({answer['source']}); {answer['price_per_hour']:g} an hour, an assumption",
        f"  one instance: {answer['rate']:g} questions a second, 95 % within {answer['p95']:g} s;"
        f" its model is busy {answer['busy']['model']:.0%} of the time",
        "  full at, questions a second: "
        + ", ".join(f"{name} {value:g}" for name, value in answer["limits_per_second"].items()),
        f"  {'people':>10}{'peak/s':>9}{'instances':>11}{'gateways':>10}{'writes/s':>10}"
        f"{'1000 replies':>14}{'scaled hourly':>15}",
    ]
    lines += [
        f"  {row['users']:>10,}{row['peak_per_second']:>9.2f}{row['instances']:>11}{row['gateways']:>10}"
        f"{row['writes_per_second']:>10.1f}{row['cost_per_thousand']:>14.3f}{row['cost_per_thousand_by_the_hour']:>15.3f}"
        for row in answer["rows"]
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
