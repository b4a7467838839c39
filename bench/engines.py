"""Our engine beside the others on the same work: greedy, prompts of one length, a forced number of new tokens."""

import contextlib
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.checkpoints import BUILD, GEOMETRIES, STUDENTS, checkpoint
from bench.export import served_folder
from bench.interleaved import rounds
from bench.peers.process import OURS, RIVALS, PeerError, PeerProcess, PeerSpec, own, transformers
from bench.prompts import prompt_ids

LOGS = BUILD / "logs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured: everything that `--quick` makes smaller."""

    engine: str
    precision: str
    base: str = "base"
    large: str = "large"
    mini: str = "mini"
    prompt_tokens: int = 450
    new_tokens: int = 40
    rounds: int = 5
    c16_rounds: int = 3
    sweep_rounds: int = 2


def vocabulary(name: str) -> int:
    """Return how many tokens the checkpoint `name` knows."""
    return GEOMETRIES[STUDENTS[name].teacher if name in STUDENTS else name].vocabulary


def turn(peer: PeerProcess, prompts: Sequence[Sequence[int]], new_tokens: int) -> Callable[[], float]:
    """Return a call that has `peer` do the work once and returns its seconds."""
    return lambda: peer.run(prompts, new_tokens).seconds


@contextlib.contextmanager
def own_engine(plan: Plan, name: str, slots: int = 8) -> Iterator[PeerProcess]:
    """Yield our engine over the checkpoint `name`, in a process of its own."""
    folder = served_folder(checkpoint(name), plan.engine, plan.precision)
    with PeerProcess(own(plan.engine, plan.precision, slots), folder, LOGS) as peer:
        yield peer


def measure_engines(plan: Plan, batches: Sequence[int], rivals: Sequence[PeerSpec] = RIVALS) -> dict[str, Any]:
    """Return seconds by batch and contender, with what each contender is; those absent are named under "skipped"."""
    folder = checkpoint(plan.base)
    skipped = [line for spec in rivals if (line := spec.absent)]
    by_batch: dict[str, Any] = {}

    def forgive(name: str, error: Exception) -> bool:
        """A rival that fails is a line of the report, not the end of half an hour's run."""
        if name == OURS or not isinstance(error, PeerError):
            return False
        skipped.append(f"{name}: failed: {error}")
        return True

    with contextlib.ExitStack() as opened:
        peers = [opened.enter_context(own_engine(plan, plan.base))]
        for spec in rivals:
            if spec.absent is None:
                try:
                    peers.append(opened.enter_context(PeerProcess(spec, folder, LOGS)))
                except PeerError as error:
                    forgive(spec.name, error)
        for batch in batches:
            prompts = [prompt_ids(plan.prompt_tokens, vocabulary(plan.base), seed) for seed in range(batch)]
            turns = {peer.spec.name: turn(peer, prompts, plan.new_tokens) for peer in peers}
            seconds = rounds(turns, plan.rounds, forgive=forgive)
            peers = [peer for peer in peers if peer.spec.name in seconds]
            by_batch[str(batch)] = {
                "seconds": seconds,
                "medians": {name: statistics.median(values) for name, values in seconds.items()},
                "memory_mb": {peer.spec.name: peer.run(prompts[:1], 1).memory_mb for peer in peers},
            }
        contenders = {peer.spec.name: peer.details for peer in peers}
    return {"plan": asdict(plan), "batches": by_batch, "contenders": contenders, "skipped": skipped}


def measure_mini(plan: Plan) -> dict[str, Any]:
    """Return seconds of naive transformers fp32 on the large model and of our engine on the mini made from it."""
    prompts = [prompt_ids(plan.prompt_tokens, vocabulary(plan.large), 0)]
    with contextlib.ExitStack() as opened:
        ours = opened.enter_context(own_engine(plan, plan.mini))
        theirs = opened.enter_context(PeerProcess(transformers("fp32"), checkpoint(plan.large), LOGS))
        peers = {"ours": ours, "transformers_fp32_large": theirs}
        seconds = rounds({name: turn(peer, prompts, plan.new_tokens) for name, peer in peers.items()}, plan.rounds)
    return {"seconds": seconds, "medians": {name: statistics.median(values) for name, values in seconds.items()}}
