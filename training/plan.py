"""What a run does and where it stands: bounded by steps, or by minutes, or by whichever comes first."""

import math
from dataclasses import dataclass, field

from training.batches import Position

TIMED_SCHEDULE = "warmup_stable_decay"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run does; `learning_rate` is the peak, reached after `warmup` steps. Raises ValueError without a bound."""

    steps: int = 0
    """0: as many as `minutes` allow."""
    minutes: float = 0.0
    """Wall-clock time of training, kills and pauses left out; the schedule then goes by time and ends with it.
    0: no bound, and the same result on any machine."""
    learning_rate: float
    warmup: int = 100
    schedule: str = TIMED_SCHEDULE
    """One of transformers' schedules by name. This one is level until `fall_from` of the run, then falls to `floor`
    of the peak."""
    floor: float = 0.05
    fall_from: float = 0.5
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.98)
    max_grad_norm: float = 1.0
    seed: int = 0
    log_every: int = 50
    save_every: int = 250
    save_seconds: float = 0.0
    """Save after so many seconds too, for steps whose number a minute is not known beforehand; 0: never."""
    validate_every: int = 0
    """0: never."""
    patience: int = 0
    """Stop after so many validations without a better loss; 0: never."""
    peak_tflops: float = 0.0
    """The device's bf16 peak, in 10^12 operations a second; with it the curves tell what share was used."""

    def __post_init__(self) -> None:
        if not self.steps and not self.minutes:
            raise ValueError("a plan needs steps, or minutes, above 0")
        if self.minutes and self.schedule != TIMED_SCHEDULE:
            raise ValueError(f"a plan with minutes needs the schedule {TIMED_SCHEDULE}, not {self.schedule}")


@dataclass(slots=True)
class Progress:
    """Where a run stands."""

    step: int = 0
    position: Position = field(default_factory=Position)
    seconds: float = 0.0
    """Of training so far."""
    loss: float = math.nan
    """Of the last step that was looked at: where a row of the curves or a checkpoint was written, and at the end."""
    best: float = math.inf
    """The lowest validation loss so far, and how many validations ago it was."""
    worse_since: int = 0

    def share(self, plan: Plan) -> float:
        """Return which share of the plan is done, from 0 to 1."""
        by_steps = self.step / plan.steps if plan.steps else 0.0
        by_time = self.seconds / (60 * plan.minutes) if plan.minutes else 0.0
        return min(1.0, max(by_steps, by_time))

    def at(self, every: int, plan: Plan) -> bool:
        """Return whether the step is one of every so many, or the last."""
        return self.step % every == 0 or self.share(plan) >= 1

    def finished(self, plan: Plan) -> bool:
        """Return whether all is done, or the validations' patience is at its end."""
        return self.share(plan) >= 1 or bool(plan.patience and self.worse_since >= plan.patience)
