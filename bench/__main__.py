"""`python -m bench`: every engine and the whole stack beside their rivals, in one run; the last line is JSON.

Prints the raw medians and a table of figures beside their targets, and writes everything with the machine's
description and plots to bench/results, one file for each kind of processor; sections measured one by one on a day
come together there. `--quick` runs all of it on a tiny model: a smoke test, its figures mean nothing.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import httpx

from bench.checkpoints import BUILD, checkpoint, describe
from bench.clients import WorkDiffersError
from bench.engines import Plan, measure_engines, measure_mini
from bench.machine import instructions, machine
from bench.peers.process import PeerError
from bench.plots import draw
from bench.report import details, figures, table
from bench.stack import measure_stack
from bench.sweep import measure_sweep
from handler.engines import DEFAULT_ENGINE, check_engine
from handler.engines.base import EngineError

RESULTS: Final = Path(__file__).parent / "results"
BATCHES: Final = (1, 8)


def sections(plan: Plan) -> dict[str, Callable[[], dict[str, Any]]]:
    """Return the parts of a run by name, in their order."""
    return {
        "engines": lambda: measure_engines(plan, BATCHES),
        "mini": lambda: measure_mini(plan) | {"mini": describe(plan.mini), "large": describe(plan.large)},
        "stack": lambda: measure_stack(plan),
        "sweep": lambda: measure_sweep(plan),
    }


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure engine and stack beside rivals.")
    parser.add_argument("--engine", default=DEFAULT_ENGINE, help="(default: %(default)s)")
    parser.add_argument("--precision", default="int8", help="(default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a smoke test on a tiny model, in a few minutes")
    parser.add_argument(
        "--sections", nargs="+", default=list(sections(Plan(engine="", precision=""))), help="(default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, help="of asking all contenders in turn (default: 5; --quick: 2)")
    parser.add_argument("--output", type=Path, help="folder for results (default: bench/results; --quick: build)")
    options = parser.parse_args()
    plan = Plan(engine=options.engine, precision=options.precision)
    if options.quick:
        plan = replace(plan, base="tiny", large="tiny", mini="tiny-mini", rounds=2)
    if options.rounds:
        plan = replace(plan, rounds=options.rounds)
    plan = replace(plan, c16_rounds=min(plan.c16_rounds, plan.rounds), sweep_rounds=min(plan.sweep_rounds, plan.rounds))
    output: Path = options.output or (BUILD / "quick" if options.quick else RESULTS)
    if unknown := set(options.sections) - set(sections(plan)):
        parser.error(f"no section {min(unknown)}; there are {', '.join(sections(plan))}")
    output.mkdir(parents=True, exist_ok=True)
    final, partial = output / f"{instructions()}.json", output / "partial.json"
    partial.unlink(missing_ok=True)
    earlier = _earlier(final, plan)

    def keep(raw: dict[str, Any]) -> None:
        together = earlier | raw
        result = {"machine": machine(), "plan": asdict(plan), "figures": figures(together)} | together
        partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")

    try:
        raw = _run(plan, options.sections, keep)
    except (EngineError, PeerError, WorkDiffersError, httpx.HTTPError, subprocess.CalledProcessError) as error:
        done = f"; what was measured before is in {partial}" if partial.exists() else ""
        sys.exit(f"bench: {' '.join(str(error).split())}{done}")
    found = figures(raw)
    partial.replace(final)
    if "sweep" in raw:
        draw(raw["sweep"], output, instructions())
    print(details(raw), table(found), json.dumps(found), sep="\n\n")


def _earlier(path: Path, plan: Plan) -> dict[str, Any]:
    """Return the sections of an earlier run of the same day, plan and machine: a run may be made in pieces."""
    if not path.exists():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    if (found["machine"], found["plan"]) != (machine(), asdict(plan)):
        return {}
    return {name: found[name] for name in sections(plan) if name in found}


def _run(plan: Plan, chosen: list[str], keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Measure the chosen sections, checkpoints made before, saying on standard error what goes on.

    `keep` is given all that has been measured after each of them.
    """
    check_engine(plan.engine, plan.precision)
    needed = (plan.base, plan.large, plan.mini) if {"mini", "sweep"} & set(chosen) else (plan.base,)
    for name in dict.fromkeys(needed):
        print(f"bench: checkpoint {name}: {describe(name)}", file=sys.stderr)
        checkpoint(name)
    raw: dict[str, Any] = {}
    for name, measure in sections(plan).items():
        if name in chosen:
            start = time.monotonic()
            print(f"bench: {name} ...", file=sys.stderr, flush=True)
            raw[name] = measure()
            keep(raw)
            print(f"bench: {name} took {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    return raw


if __name__ == "__main__":
    main()
