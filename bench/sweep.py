"""How cost grows with prompt, answer, batch, clients and model: one of them is changed, the others stay as planned."""

import contextlib
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from bench.checkpoints import checkpoint
from bench.engines import LOGS, Plan, own_engine, turn, vocabulary
from bench.interleaved import Seconds, rounds
from bench.peers.process import PeerProcess, transformers
from bench.prompts import prompt_ids
from bench.stack import alternate, archive, messages, naive_app, services
from launcher.trial import trial_stack

PROMPTS: Final = (64, 128, 256, 512, 768, 1024)
ANSWERS: Final = (8, 16, 32, 64, 128)
BATCHES: Final = (1, 2, 4, 8, 16, 32)
CLIENTS: Final = (1, 2, 4, 8, 16)
MOST_NAIVE_CLIENTS: Final = 4
"""The naive app answers one at a time: beyond this its time only multiplies."""

Points = dict[str, dict[str, float]]
"""Median seconds by contender and by the value of what is changed."""


def measure_sweep(plan: Plan) -> dict[str, Points]:
    """Return the points of every sweep."""
    found: dict[str, Points] = {}
    with (
        own_engine(plan, plan.base, slots=max(BATCHES)) as ours,
        PeerProcess(transformers("fp32"), checkpoint(plan.base), LOGS) as theirs,
    ):
        pair = (ours, theirs)

        def work(batch: int, prompt: int, new: int) -> Seconds:
            asked = [prompt_ids(prompt, vocabulary(plan.base), seed) for seed in range(batch)]
            return rounds({peer.spec.name: turn(peer, asked, new) for peer in pair}, plan.sweep_rounds)

        found["prompt_tokens"] = _points(PROMPTS, lambda value: work(1, value, plan.new_tokens))
        found["new_tokens"] = _points(ANSWERS, lambda value: work(1, plan.prompt_tokens, value))
        found["batch"] = _points(BATCHES, lambda value: work(value, plan.prompt_tokens, plan.new_tokens))
    found["clients"] = _clients(plan)
    found["model"] = _models(plan)
    return found


def _points(values: Sequence[int], measure: Callable[[int], Seconds]) -> Points:
    points: Points = {}
    for value in values:
        for name, seconds in measure(value).items():
            points.setdefault(name, {})[str(value)] = statistics.median(seconds)
    return points


def _clients(plan: Plan) -> Points:
    """Return the seconds until each client of a number of them has one answer."""
    points: Points = {"ours": {}, "baseline_app": {}}
    with (
        tempfile.TemporaryDirectory() as folder,
        trial_stack(Path(folder), archive(plan)) as stack,
        naive_app(checkpoint(plan.base)) as (url, _),
    ):
        pair = services(plan, stack, url)
        alternate(pair, messages(plan, 1, 1), 1)
        for clients in CLIENTS:
            asked = pair if clients <= MOST_NAIVE_CLIENTS else pair[:1]
            for name, loads in alternate(asked, messages(plan, clients, 1), plan.sweep_rounds).items():
                points[name][str(clients)] = statistics.median(load.seconds for load in loads)
    return points


def _models(plan: Plan) -> Points:
    """Return the seconds of one request by model, from the smallest."""
    points: Points = {}
    for name in (plan.mini, plan.base, plan.large):
        prompts = [prompt_ids(plan.prompt_tokens, vocabulary(name), 0)]
        sized = replace(plan, base=name)
        with contextlib.ExitStack() as opened:
            ours = opened.enter_context(own_engine(sized, name))
            theirs = opened.enter_context(PeerProcess(transformers("fp32"), checkpoint(name), LOGS))
            contenders = {peer.spec.name: turn(peer, prompts, plan.new_tokens) for peer in (ours, theirs)}
            for contender, seconds in rounds(contenders, plan.sweep_rounds).items():
                points.setdefault(contender, {})[name] = statistics.median(seconds)
    return points
