"""A recipe from data to a model the engine serves; and what a kill, a full disk and bad input do to it."""

import json
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from training.curves import PICTURE, SPEED, read_log
from training.data import read_records
from training.evaluate import evaluate
from training.mixtures import Material, RecipeError, build_mixture
from training.model_folder import save_model
from training.pretrain import pretrain
from training.run_folder import OPTIONS, STATE, RunFolderError, keep_options, load_state, save_state
from training.train import train


class Killed(BaseException):
    """Stands for a kill: nothing in the code under test catches it."""


def test_a_recipe_gives_a_model_folder_that_the_engine_serves(
    tmp_path: Path, data: Path, recipe: dict[str, Any]
) -> None:
    model = pretrain(recipe, data=data, text=[data / "text.txt"], folder=tmp_path / "run")
    table, answers = evaluate(read_records(data / "validation.jsonl"), str(model), "torch", "fp32")
    assert len(answers) == 6
    assert 0.0 <= table["model"]["answer_hit"] <= 1.0
    assert table["first sentence"]["answer_hit"] > 0.0


def test_a_run_cut_short_leaves_the_model_of_its_last_whole_stage_which_never_replaces_a_later_one(
    tmp_path: Path, data: Path, recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, text = tmp_path / "run", [data / "text.txt"]

    def kill(step: int, _model: Any) -> None:
        if step == 6:  # of the second stage: the first has four
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("training.pretrain.train", partial(train, on_step=kill))
        with pytest.raises(Killed):
            pretrain(recipe, data=data, text=text, folder=folder)
    held, first = load_file(folder / "model" / "model.safetensors"), load_state(folder / "1-copy")
    assert first
    for name, tensor in held.items():
        torch.testing.assert_close(tensor, first["model"][name])
    pretrain(recipe, data=data, text=text, folder=folder)
    saved: list[Path] = []

    def save(model: Any, tokenizer: Any, target: Path, precision: str) -> Path:
        saved.append(target)
        return save_model(model, tokenizer, target, precision)

    monkeypatch.setattr("training.pretrain.save_model", save)
    pretrain(recipe, data=data, text=text, folder=folder)  # all is done: the first stage's model is not to come back
    assert len(saved) == 1


def test_a_recipe_may_want_the_mean_of_its_last_stages_whether_or_not_they_ran_in_one_go(
    tmp_path: Path, data: Path, recipe: dict[str, Any]
) -> None:
    text = [data / "text.txt"]
    pretrain(recipe, data=data, text=text, folder=tmp_path / "resumed")
    models = [
        load_file(pretrain(recipe | {"average": 2}, data=data, text=text, folder=tmp_path / run) / "model.safetensors")
        for run in ("resumed", "unbroken")
    ]
    ends = [load_state(tmp_path / "unbroken" / stage) for stage in ("1-copy", "2-answer")]
    assert ends[0]
    assert ends[1]
    for name, tensor in models[0].items():
        torch.testing.assert_close(tensor, (ends[0]["model"][name] + ends[1]["model"][name]) / 2)
        torch.testing.assert_close(tensor, models[1][name])


@pytest.mark.parametrize("average", [0, 3, "all"])
def test_a_mean_of_more_stages_than_there_are_is_refused_before_anything_is_made(
    tmp_path: Path, data: Path, recipe: dict[str, Any], average: object
) -> None:
    with pytest.raises(RecipeError, match=r"average: .* there are 2"):
        pretrain(recipe | {"average": average}, data=data, text=[data / "text.txt"], folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_leaves_its_curves_as_lines_a_picture_and_for_tensorboard(
    tmp_path: Path, data: Path, recipe: dict[str, Any]
) -> None:
    pretrain(recipe, data=data, text=[data / "text.txt"], folder=tmp_path / "run")
    stage = tmp_path / "run" / "2-answer"
    rows = read_log(stage)
    assert [row["step"] for row in rows] == [2, 4, 6, 8]
    assert all(row["loss"] > 0 and 0 <= row["choice_accuracy"] <= 1 for row in rows)
    assert (stage / PICTURE).read_bytes().startswith(b"\x89PNG")
    assert list((stage / "tensorboard").iterdir())


def test_a_run_killed_at_any_step_ends_as_if_it_had_not_been(
    tmp_path: Path, data: Path, recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = pretrain(recipe, data=data, text=[data / "text.txt"], folder=tmp_path / "unbroken")
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
                pretrain(recipe, data=data, text=[data / "text.txt"], folder=folder)
        resumed = pretrain(recipe, data=data, text=[data / "text.txt"], folder=folder)
        before, after = load_file(unbroken / "model.safetensors"), load_file(resumed / "model.safetensors")
        for name, tensor in before.items():
            torch.testing.assert_close(after[name], tensor)
        without_speed = [
            [{key: value for key, value in row.items() if key not in SPEED} for row in read_log(run / "2-answer")]
            for run in (tmp_path / "unbroken", folder)
        ]
        assert without_speed[0] == without_speed[1]


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


def test_a_run_goes_on_only_with_the_options_it_was_begun_with(tmp_path: Path) -> None:
    keep_options(tmp_path, {"learning_rate": 0.1, "train_file": Path("a.jsonl")})
    keep_options(tmp_path, {"learning_rate": 0.1, "train_file": Path("a.jsonl")})
    with pytest.raises(RunFolderError, match=r"begun with learning_rate 0\.1, not 0\.2"):
        keep_options(tmp_path, {"learning_rate": 0.2, "train_file": Path("a.jsonl")})


Change = Callable[[dict[str, Any]], object]

CHANGES: list[tuple[str, Change]] = [
    (r"tokenizer\.vocabulary 640, not 700", lambda recipe: recipe["tokenizer"].update(vocabulary=700)),
    (r"model\.d_model 32, not 48", lambda recipe: recipe["model"].update(d_model=48)),
    (r"seed 3, not 4", lambda recipe: recipe.update(seed=4)),
    (r"word_vectors None, not", lambda recipe: recipe.update(word_vectors={"most_characters": 10_000})),
    (r"plan\.learning_rate 0\.003, not 0\.1", lambda recipe: recipe["stages"][0]["plan"].update(learning_rate=0.1)),
    (r"plan\.steps 4, not 9", lambda recipe: recipe["stages"][0]["plan"].update(steps=9)),
    (r"mixture\.1\.words 30, not 20", lambda recipe: recipe["stages"][0]["mixture"][0].update(words=20)),
    (r"choice_weight 0\.5, not 0", lambda recipe: recipe["stages"][0].update(choice_weight=0)),
    (r"a stage 1-copy, which the recipe does not have", lambda recipe: recipe["stages"][0].update(name="first")),
]


@pytest.fixture
def begun(tmp_path: Path, data: Path, recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder in which the recipe's first stage has ended and the second has not begun."""

    def kill(step: int, _model: Any) -> None:
        if step == 5:
            raise Killed

    recipe["stages"][1]["plan"]["save_every"] = 100
    with monkeypatch.context() as patch:
        patch.setattr("training.pretrain.train", partial(train, on_step=kill))
        with pytest.raises(Killed):
            pretrain(recipe, data=data, text=[data / "text.txt"], folder=tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize(("said", "change"), CHANGES, ids=[said for said, _ in CHANGES])
def test_a_run_is_not_resumed_by_another_recipe(
    begun: Path, data: Path, recipe: dict[str, Any], said: str, change: Change
) -> None:
    other = deepcopy(recipe)
    change(other)
    with pytest.raises(RunFolderError, match=rf"begun with {said}.*--output_dir"):
        pretrain(other, data=data, text=[data / "text.txt"], folder=begun)


def test_a_run_is_not_resumed_over_changed_data(begun: Path, data: Path, recipe: dict[str, Any]) -> None:
    with (data / "text.txt").open("a") as text:
        text.write("One more sentence than the first stage was trained on.\n")
    with pytest.raises(RunFolderError, match=r"begun with other text\.txt than .*text\.txt holds now"):
        pretrain(recipe, data=data, text=[data / "text.txt"], folder=begun)


def test_a_run_is_not_pretrained_on_by_another_number_of_processes(
    begun: Path, data: Path, recipe: dict[str, Any]
) -> None:
    path = begun / OPTIONS
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_processes": 2}))
    with pytest.raises(RunFolderError, match="begun with num_processes 2, not 1"):
        pretrain(recipe, data=data, text=[data / "text.txt"], folder=begun)


def test_stages_not_begun_the_mean_and_how_often_to_save_may_change(
    begun: Path, data: Path, recipe: dict[str, Any]
) -> None:
    first, second = recipe["stages"]
    first["plan"]["save_every"] = 2
    second["plan"] |= {"learning_rate": 0.001, "steps": 3}
    recipe |= {"average": 2, "stages": [first, second, deepcopy(second) | {"name": "third"}]}
    pretrain(recipe, data=data, text=[data / "text.txt"], folder=begun)
    ends = [load_state(begun / stage) for stage in ("1-copy", "2-answer", "3-third")]
    assert [state and state["progress"]["step"] for state in ends] == [4, 3, 3]


def test_a_run_begun_before_recipes_were_kept_goes_on_and_keeps_it(
    begun: Path, data: Path, recipe: dict[str, Any]
) -> None:
    for path in begun.rglob(OPTIONS):
        path.unlink()
    pretrain(recipe, data=data, text=[data / "text.txt"], folder=begun)
    recipe["stages"][1]["plan"]["steps"] = 9
    with pytest.raises(RunFolderError, match=r"2-answer was begun with plan\.steps 8, not 9"):
        pretrain(recipe, data=data, text=[data / "text.txt"], folder=begun)


def test_an_unknown_exercise_is_refused_by_name(data: Path) -> None:
    with pytest.raises(RecipeError, match="'juggle'"):
        build_mixture([{"exercise": "juggle", "weight": 1}], Material(data, []))


def test_spans_without_rows_are_refused_rather_than_left_out(
    tmp_path: Path, data: Path, recipe: dict[str, Any]
) -> None:
    recipe["stages"][0]["spans"] = {"tokens": 60, "share": 0.5}
    with pytest.raises(RecipeError, match="copy: spans are made beforehand; say how many `rows`"):
        pretrain(recipe, data=data, text=[data / "text.txt"], folder=tmp_path / "run")


def test_an_unknown_option_of_records_is_refused_by_name(data: Path) -> None:
    with pytest.raises(RecipeError, match="'wrods'"):
        build_mixture([{"exercise": "records", "file": "train.jsonl", "weight": 1, "wrods": 3}], Material(data, []))
