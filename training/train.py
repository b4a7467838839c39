"""The one training loop: a model, a source of batches, an objective; resumable to the same result.

AdamW without decay of norms, clipped gradients, bf16 where the machine multiplies in it; one process or several
(`accelerate launch`, `torchrun`), which share each step's rows and end with the same weights as one. Everything
that decides the next step is in the checkpoint: weights, moments, step and position in the data. Chance, as
dropout has it, is seeded by step. A device is asked for numbers only where a row of the curves or a checkpoint is
written, and a GPU's batches are made ahead, so that it never waits for this process.
"""

import math
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast, gather_object
from torch import Tensor
from tqdm import tqdm

from handler.engines.torch_engine import multiplies_in_bf16
from training.batches import Batch, Position, Source
from training.curves import Curves
from training.flops import training_flops
from training.losses import Objective
from training.model import compile_blocks, fuse
from training.plan import Plan as Plan  # also the name under which those who train know it
from training.plan import Progress
from training.prefetch import ahead
from training.run_folder import DivergedError, RunFolderError, load_state, save_state
from training.schedule import make_schedule

Validate = Callable[[Any], dict[str, float]]
"""Measures a model; the result holds `loss`, by which the best is kept."""


def new_accelerator(precision: str = "auto", waits: timedelta | None = None) -> Accelerator:
    """Return the accelerator of this process; `precision` is fp32, bf16, or auto: bf16 where it is the faster.

    `waits` is how long processes wait for each other before they give up, if not as long as their library has it.
    """
    cpu = not torch.accelerator.is_available()  # said outright, or several processes on CPUs would not find each other
    state = PartialState(cpu=cpu, **({"timeout": waits} if waits else {}))  # where the processes meet
    if precision == "auto":
        precision = "bf16" if multiplies_in_bf16(state.device) else "fp32"
    return Accelerator(cpu=cpu, mixed_precision="bf16" if precision == "bf16" else "no")


def train(
    model: Any,
    source: Source,
    objective: Objective,
    plan: Plan,
    folder: Path,
    accelerator: Accelerator,
    *,
    validate: Validate | None = None,
    on_best: Callable[[Any], None] = lambda _: None,
    on_step: Callable[[int, Any], None] = lambda _step, _model: None,
    fused: bool = False,
    compiled: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> Progress:
    """Run `plan` on `model`, in place, from the folder's checkpoint where there is one; return where it ended.

    `on_best` gets the model when `validate` has found it better than before, `on_step` after each step, both
    in the main process alone and before the step's checkpoint is written. With `fused`, a GPU does in one kernel
    what `training.model.fuse` says; with `compiled`, torch.compile makes programs of the model's blocks, for batches of
    any shape. `clock` tells the seconds that a plan's minutes are counted in. Raises RunFolderError when a checkpoint
    cannot be written or read, or is not the same for all processes, and DivergedError, with no checkpoint of it
    written, when the loss is found to be no number: where a row of the curves or a checkpoint is due.
    """
    plain = model
    model = accelerator.prepare(model)
    if fused and accelerator.device.type == "cuda":
        fuse(plain)
    if compiled:
        compile_blocks(plain)
    optimizer = torch.optim.AdamW(
        _groups(model, plan.weight_decay), lr=plan.learning_rate, betas=plan.betas, fused=True
    )
    progress, gathered = Progress(), None
    schedule = make_schedule(plan, optimizer, lambda: progress.share(plan))
    state = load_state(folder)
    _check_shared(folder, state["progress"]["step"] if state else 0)
    if state:
        plain.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        progress = Progress(**(state["progress"] | {"position": Position(*state["progress"]["position"])}))
        schedule.load_state_dict(state["schedule"])
        gathered = state["gathered"]
        if progress.finished(plan):
            accelerator.print(f"{folder} was already finished, after {progress.step} steps: nothing is left to train")
    main = accelerator.is_main_process
    peak = plan.peak_tflops * accelerator.num_processes
    curves = Curves(folder, progress.step, gathered, peak_tflops=peak) if main else None
    bar = _Bar(plan, progress, folder.name, shown=main)
    # The sums that no row of the curves has yet, on the device: asking for them each step would make it wait.
    sums: dict[str, Tensor] = {}
    last: Tensor | None = None

    def take_in() -> None:
        nonlocal last
        if last is None:
            return
        counts = _over_processes({**sums, "": last}, accelerator)
        number, total = counts.pop("")
        progress.loss = number / total
        if not math.isfinite(progress.loss):
            raise DivergedError(folder, f"the loss is {progress.loss} at step {progress.step}")
        if curves:
            curves.add(counts)
        sums.clear()
        last = None

    began, before = clock(), progress.seconds
    saved = began
    with closing(_steps(source, progress.position, accelerator.device)) as steps:
        while not progress.finished(plan):
            asked = time.perf_counter()
            batches, progress.position = next(steps)
            waited = time.perf_counter() - asked
            # One seed a step and process, so that chance does not depend on what ran before.
            torch.manual_seed(hash((plan.seed, progress.step, accelerator.process_index)))
            model.train()
            step = _step(model, optimizer, objective, batches, plan, accelerator)
            for name, pair in step.items():
                sums[name] = sums[name] + pair if name in sums else pair
            last = step["loss"]
            rate = schedule.get_last_lr()[0]
            progress.step += 1
            now = _agreed(clock(), plan, accelerator)
            progress.seconds = before + now - began
            schedule.step()
            if curves:
                tokens = sum(batch.tokens for batch in batches)
                flops = sum(training_flops(plain.config, batch) for batch in batches)
                curves.worked(tokens * accelerator.num_processes, flops * accelerator.num_processes, waited)
            if progress.at(plan.log_every, plan):
                take_in()
                if curves:
                    curves.write(progress.step, rate)
            bar.show(progress)
            if validate and plan.validate_every and progress.at(plan.validate_every, plan):
                model.eval()
                measured = validate(plain)
                better = measured["loss"] < progress.best
                progress.worse_since = 0 if better else progress.worse_since + 1
                progress.best = min(progress.best, measured["loss"])
                if curves:
                    curves.validation(progress.step, measured)
                    if better:
                        on_best(plain)
            if main:
                on_step(progress.step, plain)
            due = plan.save_seconds and now - saved >= plan.save_seconds
            if due or progress.at(plan.save_every, plan) or progress.finished(plan):
                take_in()
                if curves:
                    _save(folder, plain, optimizer, schedule, progress, curves.gathered)
                accelerator.wait_for_everyone()
                saved = now
    bar.close()
    if curves:
        curves.close()
    return progress


def _check_shared(folder: Path, step: int) -> None:
    """Raise RunFolderError in all processes unless all have found the same step's checkpoint: one alone writes it."""
    found = sorted(set(gather_object([step])))
    if len(found) > 1:
        raise RunFolderError(
            f"{folder} holds the state of step {found[-1]} for some processes and of step {found[0]} for others: all"
            " machines need the same --output_dir, on a disk that they share"
        )


class _Bar:
    """A progress bar of steps, or of seconds where time bounds the run."""

    def __init__(self, plan: Plan, progress: Progress, name: str, *, shown: bool) -> None:
        self._timed = bool(plan.minutes)
        total, unit = (round(60 * plan.minutes), "s") if self._timed else (plan.steps, "it")
        self._bar = tqdm(
            total=total, initial=self._at(progress), unit=unit, desc=name, mininterval=2, disable=not shown
        )

    def show(self, progress: Progress) -> None:
        self._bar.update(self._at(progress) - self._bar.n)
        known = {} if math.isnan(progress.loss) else {"loss": f"{progress.loss:.3f}"}
        self._bar.set_postfix(known, step=progress.step, refresh=False)

    def close(self) -> None:
        self._bar.close()

    def _at(self, progress: Progress) -> int:
        return round(progress.seconds) if self._timed else progress.step


def _steps(source: Source, start: Position, device: torch.device) -> Generator[tuple[list[Batch], Position]]:
    """Return the steps' batches: made ahead for a GPU; on a CPU, whose cores compute, one after the other."""
    steps = source.batches(start)
    return ahead(steps, device) if device.type != "cpu" else (step for step in steps)


def _agreed(now: float, plan: Plan, accelerator: Accelerator) -> float:
    """Return the main process' time where a plan goes by time: all must end and save at the same step."""
    if accelerator.num_processes == 1 or not (plan.minutes or plan.save_seconds):
        return now
    told: Tensor = broadcast(torch.tensor(now, dtype=torch.float64, device=accelerator.device))
    return told.item()


def _step(
    model: Any,
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    batches: list[Batch],
    plan: Plan,
    accelerator: Accelerator,
) -> dict[str, Tensor]:
    """Make one step and return this process' counts, each a number and of how many, on the device."""
    # Filled in on the device: a copy to it would wait for all that it still has to do.
    targets = torch.full((), sum(batch.targets for batch in batches), device=accelerator.device)
    # Each process' gradient is that of a sum; the processes' mean, times their number, over all targets is the mean.
    scale = accelerator.num_processes / accelerator.reduce(targets, "sum").clamp(min=1)
    sums: dict[str, Tensor] = {}
    for number, batch in enumerate(batches, start=1):
        with _gathering(accelerator, model, last=number == len(batches)), accelerator.autocast():
            outcome = objective(model, batch)
            accelerator.backward(outcome.loss * scale)
        for name, (value, total) in outcome.counts.items():
            of = total if isinstance(total, Tensor) else torch.full((), total, device=value.device)
            pair = torch.stack([value.detach().double(), of.double()])
            sums[name] = sums[name] + pair if name in sums else pair
    accelerator.clip_grad_norm_(model.parameters(), plan.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return sums


def _gathering(accelerator: Accelerator, model: Any, *, last: bool) -> AbstractContextManager[Any]:
    """Keep the gradients of all batches of a step but the last in this process."""
    return nullcontext() if last else accelerator.no_sync(model)


def _over_processes(sums: dict[str, Tensor], accelerator: Accelerator) -> dict[str, tuple[float, float]]:
    names = sorted(sums)
    table = accelerator.reduce(torch.stack([sums[name] for name in names]), "sum").tolist()
    return {name: (number, total) for name, (number, total) in zip(names, table, strict=True)}


def _groups(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    """Return the parameters in two groups: matrices, which decay, and norms, which do not."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _save(
    folder: Path,
    model: Any,
    optimizer: torch.optim.Optimizer,
    schedule: Any,
    progress: Progress,
    gathered: dict[str, tuple[float, float]],
) -> None:
    position = (progress.position.pool, progress.position.batch)
    save_state(
        folder,
        {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "progress": asdict(progress) | {"position": position},
            "gathered": gathered,
        },
    )
