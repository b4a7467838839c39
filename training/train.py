"""The one training loop: a model, a source of batches, an objective; resumable to the same result.

AdamW without decay of norms, clipped gradients, bf16 where the machine multiplies in it; one process or several
(`accelerate launch`, `torchrun`), which share each step's rows and end with the same weights as one. Everything
that decides the next step is in the checkpoint: weights, moments, step and position in the data. Chance, as
dropout has it, is seeded by step.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from torch import Tensor
from tqdm import tqdm
from transformers import get_scheduler

from handler.engines.torch_engine import multiplies_in_bf16
from training.batches import Batch, Position, Source
from training.curves import Curves
from training.losses import Objective
from training.run_folder import load_state, save_state

Validate = Callable[[Any], dict[str, float]]
"""Measures a model; the result holds `loss`, by which the best is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run does; `learning_rate` is the peak, reached after `warmup` steps."""

    steps: int
    learning_rate: float
    warmup: int = 100
    schedule: str = "warmup_stable_decay"
    """One of transformers' schedules by name. This one is level until `fall_from` of the steps, then falls to `floor`
    of the peak."""
    floor: float = 0.05
    fall_from: float = 0.5
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.98)
    max_grad_norm: float = 1.0
    seed: int = 0
    log_every: int = 50
    save_every: int = 250
    validate_every: int = 0
    """0: never."""
    patience: int = 0
    """Stop after so many validations without a better loss; 0: never."""


@dataclass(slots=True)
class Progress:
    """Where a run stands."""

    step: int = 0
    position: Position = field(default_factory=Position)
    loss: float = math.nan
    """Of the last step."""
    best: float = math.inf
    """The lowest validation loss so far, and how many validations ago it was."""
    worse_since: int = 0

    def at(self, every: int, plan: Plan) -> bool:
        """Return whether the step is one of every so many, or the last."""
        return self.step % every == 0 or self.step == plan.steps

    def finished(self, plan: Plan) -> bool:
        """Return whether all steps are done, or the validations' patience is at its end."""
        return self.step >= plan.steps or bool(plan.patience and self.worse_since >= plan.patience)


def new_accelerator(precision: str = "auto") -> Accelerator:
    """Return the accelerator of this process; `precision` is fp32, bf16, or auto: bf16 where it is the faster."""
    cpu = not torch.accelerator.is_available()  # said outright, or several processes on CPUs would not find each other
    if precision == "auto":
        precision = "bf16" if multiplies_in_bf16(PartialState(cpu=cpu).device) else "fp32"
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
) -> Progress:
    """Run `plan` on `model`, in place, from the folder's checkpoint where there is one; return where it ended.

    `on_best` gets the model when `validate` has found it better than before, `on_step` after each step, both
    in the main process alone and before the step's checkpoint is written. Raises RunFolderError when a
    checkpoint cannot be written or read.
    """
    model = accelerator.prepare(model)
    optimizer = torch.optim.AdamW(
        _groups(model, plan.weight_decay), lr=plan.learning_rate, betas=plan.betas, fused=True
    )
    schedule = _schedule(plan, optimizer)
    plain = accelerator.unwrap_model(model)
    progress, gathered = Progress(), None
    if state := load_state(folder):
        plain.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        progress = Progress(**(state["progress"] | {"position": Position(*state["progress"]["position"])}))
        gathered = state["gathered"]
    curves = Curves(folder, progress.step, gathered) if accelerator.is_main_process else None
    steps = source.batches(progress.position)
    bar = tqdm(
        total=plan.steps,
        initial=progress.step,
        desc=folder.name,
        mininterval=2,
        disable=not accelerator.is_main_process,
    )
    while not progress.finished(plan):
        batches, progress.position = next(steps)
        # One seed a step and process, so that chance does not depend on what ran before.
        torch.manual_seed(hash((plan.seed, progress.step, accelerator.process_index)))
        model.train()
        counts, tokens = _step(model, optimizer, objective, batches, plan, accelerator)
        rate = schedule.get_last_lr()[0]
        schedule.step()
        progress.step += 1
        progress.loss = counts["loss"][0] / counts["loss"][1]
        bar.update()
        bar.set_postfix(loss=f"{progress.loss:.3f}", refresh=False)
        if curves:
            curves.add(counts, tokens)
            if progress.at(plan.log_every, plan):
                curves.write(progress.step, rate)
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
        if accelerator.is_main_process:
            on_step(progress.step, plain)
        if progress.at(plan.save_every, plan) or progress.finished(plan):
            if curves:
                _save(folder, plain, optimizer, schedule, progress, curves.gathered)
            accelerator.wait_for_everyone()
    bar.close()
    if curves:
        curves.close()
    return progress


def _step(
    model: Any,
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    batches: list[Batch],
    plan: Plan,
    accelerator: Accelerator,
) -> tuple[dict[str, tuple[float, float]], int]:
    """Make one step and return the counts and tokens of all processes."""
    targets = torch.tensor(sum(batch.targets for batch in batches), device=accelerator.device)
    # Each process' gradient is that of a sum; the processes' mean, times their number, over all targets is the mean.
    scale = accelerator.num_processes / accelerator.reduce(targets, "sum").clamp(min=1)
    sums: dict[str, Tensor] = {}
    for number, batch in enumerate(batches, start=1):
        batch = batch.to(accelerator.device)
        with _gathering(accelerator, model, last=number == len(batches)), accelerator.autocast():
            outcome = objective(model, batch)
            accelerator.backward(outcome.loss * scale)
        for name, (value, total) in outcome.counts.items():
            pair = torch.stack([value.detach().double(), torch.tensor(float(total)).double().to(value.device)])
            sums[name] = sums.get(name, 0) + pair
    accelerator.clip_grad_norm_(model.parameters(), plan.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return _over_processes(sums, accelerator), sum(batch.tokens for batch in batches) * accelerator.num_processes


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


def _schedule(plan: Plan, optimizer: torch.optim.Optimizer) -> Any:
    if plan.schedule == "warmup_stable_decay":
        fall = max(1, round(plan.steps * (1 - plan.fall_from)))
        warmup = min(plan.warmup, plan.steps - fall)
        falling = {
            "num_decay_steps": fall,
            "num_stable_steps": plan.steps - fall - warmup,
            "decay_type": "linear",
            "min_lr_ratio": plan.floor,
        }
        return get_scheduler(plan.schedule, optimizer, warmup, scheduler_specific_kwargs=falling)
    return get_scheduler(plan.schedule, optimizer, plan.warmup, plan.steps)


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
