"""Training that a clock bounds: it ends in time on fast and slow machines, its learning rate down, cut or not."""

from pathlib import Path
from typing import Any

import pytest
import torch

from training.batches import BatchShape, Drawn
from training.curves import read_log
from training.losses import answer_objective
from training.mixtures import Material, build_mixture
from training.model_folder import load_model
from training.plan import Plan, Progress
from training.run_folder import load_state
from training.schedule import TimedSchedule, make_schedule
from training.train import new_accelerator, train


class Clock:
    """A clock that goes on by so many seconds each time it is looked at."""

    def __init__(self, seconds: float) -> None:
        self.now, self._seconds = 1000.0, seconds

    def __call__(self) -> float:
        self.now += self._seconds
        return self.now


def timed(**changes: Any) -> Plan:
    plan: dict[str, Any] = {"minutes": 1.0, "learning_rate": 0.004, "warmup": 2, "fall_from": 0.5, "floor": 0.1}
    return Plan(**plan | {"log_every": 1, "save_every": 1000} | changes)


def run(folder: Path, model_folder: Path, data: Path, plan: Plan, clock: Clock, **more: Any) -> Progress:
    model, tokenizer = load_model(model_folder)
    entries = [{"exercise": "records", "file": "train.jsonl", "weight": 1, "words": 30}]
    source = Drawn(
        build_mixture(entries, Material(data, [])),
        tokenizer,
        BatchShape(tokens=256, prompt=200, target=60, pool=16),
        seed=1,
    )
    return train(model, source, answer_objective(), plan, folder, new_accelerator("fp32"), clock=clock, **more)


@pytest.mark.parametrize(("seconds_a_step", "steps"), [(2.0, 30), (10.0, 6)])
def test_a_run_ends_with_its_minutes_and_its_rate_at_the_floor_however_many_steps_that_is(
    seconds_a_step: float, steps: int, tmp_path: Path, tiny_model: Path, data: Path
) -> None:
    progress = run(tmp_path / "run", tiny_model, data, timed(), Clock(seconds_a_step))
    assert progress.step == steps
    rates = [row["learning_rate"] for row in read_log(tmp_path / "run")]
    assert rates[0] == pytest.approx(0.002)  # half-way up a warm-up of two steps
    assert max(rates) == pytest.approx(0.004)
    # The last step's rate is that of the share done before it; the floor belongs to the end itself.
    share = (steps - 1) / steps
    assert rates[-1] == pytest.approx(0.004 * (1 - 0.9 * (share - 0.5) / 0.5))
    assert rates == sorted(rates[:2]) + sorted(rates[2:], reverse=True)
    state = load_state(tmp_path / "run")
    assert state
    assert state["progress"]["seconds"] == pytest.approx(60.0)


def test_a_cut_run_goes_on_with_the_time_it_has_left(tmp_path: Path, tiny_model: Path, data: Path) -> None:
    class Cut(BaseException):
        pass

    def cut(step: int, _: Any) -> None:
        if step == 8:
            raise Cut

    with pytest.raises(Cut):
        run(tmp_path / "run", tiny_model, data, timed(save_seconds=20), Clock(5.0), on_step=cut)
    state = load_state(tmp_path / "run")
    assert state
    assert state["progress"]["seconds"] == 20.0  # of the 40 it had
    progress = run(tmp_path / "run", tiny_model, data, timed(save_seconds=20), Clock(5.0))
    assert progress.step == 12
    assert progress.seconds == pytest.approx(60.0)


def test_steps_bound_a_timed_run_too() -> None:
    plan = timed(steps=10)
    assert Progress(step=9, seconds=10).share(plan) == pytest.approx(0.9)
    assert Progress(step=10, seconds=10).finished(plan)
    assert Progress(step=3, seconds=61).finished(plan)


@pytest.mark.parametrize(
    ("changes", "problem"), [({"minutes": 0.0}, "needs steps"), ({"schedule": "linear"}, "needs the schedule")]
)
def test_a_plan_without_an_end_or_with_a_schedule_of_steps_is_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        timed(**changes)


def test_the_rate_by_time_is_the_one_by_steps_where_steps_take_equally_long() -> None:
    optimizers = [torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=1.0) for _ in range(2)]
    by_steps = make_schedule(Plan(steps=100, learning_rate=1.0, warmup=10, fall_from=0.6), optimizers[0], lambda: 0.0)
    step = 0
    by_time = make_schedule(
        Plan(minutes=5, learning_rate=1.0, warmup=10, fall_from=0.6), optimizers[1], lambda: step / 100
    )
    assert isinstance(by_time, TimedSchedule)
    for step in range(1, 101):
        by_steps.step()
        by_time.step()
        if step >= 10:  # the rises differ by a step
            assert by_time.get_last_lr()[0] == pytest.approx(by_steps.get_last_lr()[0], abs=0.001)
