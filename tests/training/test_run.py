"""A recipe from data to a model the engine serves; and what a kill, a full disk and bad input do to it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from training.data import read_records
from training.evaluate import evaluate
from training.mixtures import RecipeError, build_mixture
from training.run import run
from training.run_folder import STATE, RunFolderError, load_state, save_state
from training.train import Plan


class Killed(BaseException):
    """Stands for a kill: nothing in the code under test catches it."""


def test_a_recipe_gives_a_model_folder_that_the_engine_serves(
    tmp_path: Path, data: Path, recipe: dict[str, Any]
) -> None:
    model = run(recipe, data=data, text=[data / "text.txt"], folder=tmp_path / "run")
    table, answers = evaluate(read_records(data / "validation.jsonl"), model, "torch", "fp32")
    assert len(answers) == 6
    assert 0.0 <= table["model"]["answer_hit"] <= 1.0
    assert table["first sentence"]["answer_hit"] > 0.0


def test_a_run_killed_at_any_step_ends_as_if_it_had_not_been(
    tmp_path: Path, data: Path, recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = run(recipe, data=data, text=[data / "text.txt"], folder=tmp_path / "unbroken")
    for step in (2, 7, 9):  # within the first stage, within the second, after its last checkpoint but one
        folder = tmp_path / f"killed-at-{step}"
        steps = 0
        original = torch.nn.utils.clip_grad_norm_

        def kill(*arguments: Any, _at: int = step, _original: Any = original, **options: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps == _at:
                raise Killed
            return _original(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(torch.nn.utils, "clip_grad_norm_", kill)
            with pytest.raises(Killed):
                run(recipe, data=data, text=[data / "text.txt"], folder=folder)
        resumed = run(recipe, data=data, text=[data / "text.txt"], folder=folder)
        before, after = load_file(unbroken / "model.safetensors"), load_file(resumed / "model.safetensors")
        for name, tensor in before.items():
            torch.testing.assert_close(after[name], tensor)


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_state(tmp_path, {"step": 1})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(RunFolderError, match="No space left"):
            save_state(tmp_path, {"step": 2})
    assert load_state(tmp_path) == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == [STATE]


def test_a_broken_checkpoint_is_named_and_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    (tmp_path / STATE).write_bytes(b"half a file")
    with pytest.raises(RunFolderError, match=r"state\.pt cannot be read"):
        load_state(tmp_path)


def test_an_unknown_exercise_is_refused_by_name(data: Path) -> None:
    with pytest.raises(RecipeError, match="'juggle'"):
        build_mixture([{"exercise": "juggle", "weight": 1}], data, [])


def test_the_learning_rate_rises_stays_level_and_falls_to_its_floor() -> None:
    plan = Plan(steps=100, learning_rate=1.0, warmup=10, fall_from=0.5, floor=0.1)
    assert plan.rate(0) == pytest.approx(0.1)
    assert plan.rate(30) == 1.0
    assert plan.rate(75) == pytest.approx(0.5)
    assert plan.rate(99) == pytest.approx(0.1)
