"""The learning rate of each step: transformers' schedules by steps, and one that goes by the share of a run done."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import get_scheduler

from training.plan import TIMED_SCHEDULE, Plan


def make_schedule(plan: Plan, optimizer: torch.optim.Optimizer, share: Callable[[], float]) -> Any:
    """Return `plan`'s schedule of `optimizer`; `share` tells which share of the run is done, where time bounds it."""
    if plan.minutes:
        return TimedSchedule(plan, optimizer, share)
    if plan.schedule == TIMED_SCHEDULE:
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


class TimedSchedule:
    """Rises over the plan's warm-up steps, is level until `fall_from` of its time, then falls to `floor` at its end.

    How many steps that will be need not be known: a slow machine makes fewer of them, and the fall still ends with
    the time. Has the methods of torch's schedulers that training uses.
    """

    def __init__(self, plan: Plan, optimizer: torch.optim.Optimizer, share: Callable[[], float]) -> None:
        self._plan, self._optimizer, self._share = plan, optimizer, share
        self._step = 0
        self._set()

    def step(self) -> None:
        """Set the rate of the next step."""
        self._step += 1
        self._set()

    def get_last_lr(self) -> list[float]:
        """Return the rate in force, by group of parameters."""
        return [group["lr"] for group in self._optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs beside the share done."""
        return {"step": self._step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after a run's `state_dict`."""
        self._step = state["step"]
        self._set()

    def _set(self) -> None:
        plan, share = self._plan, self._share()
        rising = min(1.0, (self._step + 1) / plan.warmup) if plan.warmup else 1.0
        fallen = max(0.0, share - plan.fall_from) / (1 - plan.fall_from) if plan.fall_from < 1 else 0.0
        for group in self._optimizer.param_groups:
            group["lr"] = plan.learning_rate * rising * (1 - (1 - plan.floor) * min(1.0, fallen))
