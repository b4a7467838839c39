"""The large recipe: within its bounds on paper, and run through at a tiny size."""

import copy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from tokenizers import Tokenizer

from training.batches import BatchShape
from training.mixtures import Material
from training.model import new_model
from training.pretrain import pretrain
from training.recipe import stage_plan
from training.shards import prepare, wanting
from training.spans import lengths
from training.student import make_student
from training.throughput import trials

RECIPES = Path("training/recipes").absolute()


@pytest.fixture
def large() -> dict[str, Any]:
    recipe: dict[str, Any] = yaml.safe_load((RECIPES / "large.yaml").read_text(encoding="utf-8"))
    return recipe


def test_the_model_has_the_promised_size_and_room_for_its_circuits(large: dict[str, Any], tiny_model: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_model / "tokenizer.json"))
    shape = large["model"]
    held = sum(parameter.numel() for parameter in new_model(tokenizer, seed=1, **shape).parameters())
    more = (large["tokenizer"]["vocabulary"] - tokenizer.get_vocab_size()) * shape["d_model"]
    assert 25e6 <= held + more <= 35e6
    assert 2 * (held + more) <= 60e6  # bytes in bf16
    assert large["store"] == "bf16"
    assert 384 <= shape["d_model"] <= 512
    assert shape["num_layers"] > shape["num_decoder_layers"]


def test_the_minutes_are_those_of_the_plan_at_its_head_and_the_rate_ends_low(large: dict[str, Any]) -> None:
    plans = [stage_plan(large, number) for number in range(1, len(large["stages"]) + 1)]
    assert sum(plan.minutes for plan in plans) == 20
    assert "--minutes 20" in (RECIPES / "large.yaml").read_text(encoding="utf-8")
    assert "MINUTES:-20" in (RECIPES / "large.sh").read_text(encoding="utf-8")
    assert plans[-1].floor <= 0.05
    assert all(0 < plan.save_seconds <= 60 for plan in plans)


def test_rows_of_spans_fill_the_prompt_and_every_stage_has_rows(large: dict[str, Any]) -> None:
    stage = large["stages"][0]
    shape = BatchShape(**stage["shape"])
    prompt, target = lengths(stage["spans"]["tokens"])
    assert prompt == shape.prompt
    assert target <= shape.target
    assert len(wanting(large)) == len(large["stages"])


def test_dialogues_wrong_passages_small_talk_and_three_instructions_are_in_it(large: dict[str, Any]) -> None:
    for stage in large["stages"][2:]:
        records = [entry for entry in stage["mixture"] if entry["exercise"] == "records"]
        assert any(entry.get("dialogue") for entry in records)
        assert any(entry.get("unanswerable") for entry in records)
        # Without knowledge the contract's own instruction for chit-chat heads the prompt.
        assert any(entry["words"] == 0 for entry in records)
        assert {name for entry in records for name in entry.get("instructions", ())} == {"qa", "grounded"}


def test_the_recipe_runs_through_at_a_tiny_size_and_its_model_is_one_to_go_on_with(
    tmp_path: Path, data: Path, large: dict[str, Any], tiny_model: Path
) -> None:
    tiny = copy.deepcopy(large)
    tiny |= {"compile": False, "text": ["text.txt"], "threads": 1}
    tiny["model"] = {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 4, "num_decoder_layers": 2, "num_heads": 8}
    for stage in tiny["stages"]:
        stage["rows"] = 32
        stage["shape"] |= {"tokens": 1024, "pool": 16}
        stage["plan"] |= {"log_every": 1}
        for entry in stage.get("mixture", ()):
            if "file" in entry:
                shutil.copy(data / "train.jsonl", data / entry["file"])
    tiny["stages"][0]["spans"]["tokens"] = 100
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(tiny_model / "tokenizer.json", folder)
    tokenizer, text = Tokenizer.from_file(str(folder / "tokenizer.json")), [data / "text.txt"]
    prepare(tiny, tokenizer, Material(data, text), folder, processes=2)
    model = pretrain(tiny, data=data, text=text, folder=folder, minutes=4 / 60, peak_tflops=1.0)
    make_student(model, tmp_path / "student", "4", "1", None, [])  # loads it, and runs what comes out


def test_the_script_is_one_that_bash_understands() -> None:
    subprocess.run(["bash", "-n", str(RECIPES / "large.sh")], check=True)  # noqa: S607


def test_a_trial_tells_each_stages_speed_by_size_and_leaves_nothing(
    tmp_path: Path, data: Path, recipe: dict[str, Any], tiny_model: Path
) -> None:
    tokenizer, material = Tokenizer.from_file(str(tiny_model / "tokenizer.json")), Material(data, [data / "text.txt"])

    def tried(seconds: float, sizes: list[int]) -> list[dict[str, Any]]:
        folder = tmp_path / "run"
        ways = trials(
            recipe,
            material,
            tokenizer,
            folder,
            sizes=sizes,
            fused=[False],
            compiled=[False],
            seconds=seconds,
            peak_tflops=0.1,
        )
        return list(ways)

    for seconds in (2.0, 8.0, 32.0):  # a trial needs some steps, and a busy machine time for them
        found = tried(seconds, [256, 512])
        if not any("failed" in row for row in found):
            break
    assert [(row["stage"], row["tokens"]) for row in found] == [
        ("copy", 256), ("copy", 512), ("answer", 256), ("answer", 512),
    ]  # fmt: skip
    assert all(row["tokens_per_second"] > 0 and 0 < row["peak_share"] < 1 for row in found)
    assert tried(0.001, [256])[0]["failed"] == "fewer than 6 steps in 0 s"
    assert not (tmp_path / "run").exists()
