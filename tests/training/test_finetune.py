"""Fine-tuning by GODEL's command line: what its flags mean, what it leaves behind, what it refuses."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file, save_file

from training.answers import Answerer
from training.checkpoint import CheckpointError
from training.curves import read_log
from training.data import DataError
from training.dataset import find_splits
from training.finetune import finetune, to_rows
from training.finetune_options import BASE_MODEL, Options, parse
from training.model_folder import load_model
from training.run_folder import DivergedError, RunFolderError, load_state

SEED_LINE = (
    "--dataset_name data/dstc9_dataset.py --output_dir out --per_device_train_batch_size 16"
    " --per_device_eval_batch_size 16 --max_target_length 128 --max_length 512 --num_train_epochs 50"
    " --save_steps 10000 --num_beams 5 --exp_name wow-test --preprocessing_num_workers 24 --save_every_checkpoint"
)


def options(model: Path, data: Path, output: Path, **more: object) -> Options:
    """Return the options of a run of two epochs of eight steps on a few dozen records."""
    line = {
        "model_name_or_path": model,
        "dataset_name": data,
        "output_dir": output,
        "per_device_train_batch_size": 8,
        "num_train_epochs": 2,
        "learning_rate": 0.003,
        "max_target_length": 40,
        "max_eval_records": 2,
        "precision": "fp32",
        "logging_steps": 1,
        **more,
    }
    return parse([part for name, value in line.items() for part in _flag(name, value)])


def _flag(name: str, value: object) -> list[str]:
    return [f"--{name}"] if value is True else [f"--{name}", str(value)]


def free_port() -> int:
    """Return a port that nothing listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def processes(number: int, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in so many processes of one run."""
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(number)]
    start += ["--master_addr", "127.0.0.1", "--master_port", str(free_port())]
    environment = os.environ | {"PYTHONPATH": str(Path().absolute())}
    return subprocess.run([*start, *command], capture_output=True, text=True, check=False, timeout=110, env=environment)


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in read_log(folder) if "loss" in row]


def test_the_command_line_of_godel_is_taken_as_it_is() -> None:
    read = parse(SEED_LINE.split())
    assert read.model_name_or_path == BASE_MODEL
    assert (read.num_train_epochs, read.num_beams, read.save_steps) == (50, 5, 10_000)
    assert read.save_every_checkpoint
    assert not read.no_kb


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("--output_dir out", "say what to train on"),
        ("--output_dir out --dataset_name d --num_train_epochs 0", "0 is less than 1"),
        ("--output_dir out --dataset_name d --learning_rate -1", "-1 is not above 0"),
        ("--output_dir out --dataset_name d --lr_scheduler_type wavy", "invalid choice: 'wavy'"),
        ("--output_dir out --train_file a.jsonl --early_stopping_patience 2", "needs validation records"),
        ("--output_dir out --dataset_name d --learning_rat 1 --frobnicate", "frobnicate"),
    ],
)
def test_a_wrong_flag_is_refused_by_name(line: str, complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(line.split())
    assert stopped.value.code == 2
    assert complaint in capsys.readouterr().err


def test_a_run_leaves_the_last_model_the_best_one_and_the_checkpoints_asked_for(
    tmp_path: Path, data: Path, tiny_model: Path
) -> None:
    output = tmp_path / "run"
    finetune(options(tiny_model, data, output, save_steps=5, save_every_checkpoint=True))
    folders = {path.parent.name for path in output.glob("*/model.safetensors")}
    assert folders == {
        "model", "best", "checkpoint-5", "checkpoint-10", "checkpoint-15", "checkpoint-epoch-1", "checkpoint-epoch-2"
    }  # fmt: skip
    assert losses(output)[-1] < losses(output)[0]
    validations = [row for row in read_log(output) if "validation_loss" in row]
    assert [row["step"] for row in validations] == [8, 16]
    assert all(0 <= row["validation_rougeL"] <= 1 for row in validations)
    assert Answerer(output / "model", precision="fp32")(["Instruction: x [CONTEXT] Hello"])


def test_accumulated_batches_train_as_one_batch_of_their_size(tmp_path: Path, data: Path, tiny_model: Path) -> None:
    finetune(options(tiny_model, data, tmp_path / "one"))
    finetune(options(tiny_model, data, tmp_path / "four", per_device_train_batch_size=2, gradient_accumulation_steps=4))
    assert losses(tmp_path / "four") == pytest.approx(losses(tmp_path / "one"), abs=2e-4)


def test_two_processes_train_as_one_with_twice_the_batch(tmp_path: Path, data: Path, tiny_model: Path) -> None:
    finetune(options(tiny_model, data, tmp_path / "one"))
    line = options(tiny_model, data, tmp_path / "two", per_device_train_batch_size=4)
    flags = [
        part
        for name in ("model_name_or_path", "dataset_name", "output_dir", "per_device_train_batch_size",
                     "num_train_epochs", "learning_rate", "max_target_length", "max_eval_records", "precision",
                     "logging_steps")
        for part in (f"--{name}", str(getattr(line, name)))
    ]  # fmt: skip
    done = processes(2, "-m", "training.finetune", *flags)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "2 process(es) on cpu" in done.stdout
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=2e-4)
    before, one, two = (
        load_file(folder / "model.safetensors")
        for folder in (tiny_model, tmp_path / "one" / "model", tmp_path / "two" / "model")
    )
    # Not weight by weight: where a gradient is nearly nought, rounding decides its sign, and Adam moves by the sign.
    for name, tensor in one.items():
        assert (two[name] - tensor).norm() < 0.02 * (tensor - before[name]).norm(), name


def test_a_checkpoint_laid_out_like_the_hubs_is_fine_tuned(tmp_path: Path, data: Path, hub_folder: Path) -> None:
    model = finetune(options(hub_folder, data, tmp_path / "run", max_train_steps=3))
    assert {path.name for path in model.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}
    before, after = (
        load_file(tmp_path / "run" / "converted" / "model.safetensors"),
        load_file(model / "model.safetensors"),
    )
    assert not torch.equal(before["shared.weight"], after["shared.weight"])
    assert Answerer(model, precision="fp32")(["The sea is blue."])


def test_low_rank_adapters_are_merged_into_a_whole_model(tmp_path: Path, data: Path, tiny_model: Path) -> None:
    finetune(options(tiny_model, data, tmp_path / "run", lora_rank=2, gradient_checkpointing=True, num_train_epochs=1))
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_model, tmp_path / "run" / "model"))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.endswith(("q.weight", "v.weight")) for name in changed)


def test_training_stops_when_validation_no_longer_improves(tmp_path: Path, data: Path, tiny_model: Path) -> None:
    output = tmp_path / "run"
    finetune(options(tiny_model, data, output, num_train_epochs=30, learning_rate=1.0, early_stopping_patience=2))
    validations = [row["validation_loss"] for row in read_log(output) if "validation_loss" in row]
    assert len(validations) < 30
    assert min(validations) not in validations[-2:]
    assert (output / "model" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("save_steps", "found"), [(1000, r"the loss is nan at step \d+"), (1, r"holds what is no number")]
)
def test_a_run_that_diverges_ends_with_what_to_do_and_keeps_nothing_of_it(
    tmp_path: Path, data: Path, tiny_model: Path, save_steps: int, found: str
) -> None:
    output = tmp_path / "run"
    with pytest.raises(DivergedError, match=f"{found}.*lower learning rate"):
        finetune(options(tiny_model, data, output, learning_rate=1e30, save_steps=save_steps))
    kept = load_state(output)
    assert kept is None or not any(weight.isnan().any() for weight in kept["model"].values())
    assert not (output / "model").exists()


def test_without_knowledge_the_prompts_hold_none(tmp_path: Path, data: Path, tiny_model: Path) -> None:
    with_it = finetune(options(tiny_model, data, tmp_path / "with", max_train_steps=1))
    without = finetune(options(tiny_model, data, tmp_path / "without", max_train_steps=1, no_kb=True))
    rates = [read_log(model.parent)[0]["loss"] for model in (with_it, without)]
    assert rates[0] != rates[1]


def test_a_prompt_too_long_is_cut_as_the_gateway_cuts_it(tiny_model: Path) -> None:
    from training.data import Record

    _, tokenizer = load_model(tiny_model)
    record = Record(("An old turn that can go.", "When does it open?"), "It opens at nine. " * 60, "At nine. " * 40)
    (row,) = to_rows([record], tokenizer, 60, 10)
    text = tokenizer.decode(row.prompt, skip_special_tokens=False)
    assert len(row.prompt) <= 60
    assert "When does it open?" in text
    assert "[KNOWLEDGE]" in text
    assert "An old turn" not in text
    assert len(row.target) == 10
    assert row.target[-1] == tokenizer.token_to_id("</s>")


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_checkpoint_file_is_named(
    tmp_path: Path, data: Path, tiny_model: Path, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training import finetune as stage

    broken = tmp_path / "broken"
    broken.mkdir()
    for path in tiny_model.iterdir():
        if path.name != missing:
            (broken / path.name).write_bytes(path.read_bytes())
    arguments = ["--model_name_or_path", str(broken), "--dataset_name", str(data), "--output_dir", str(tmp_path / "o")]
    monkeypatch.setattr(sys, "argv", ["finetune", *arguments])
    with pytest.raises(SystemExit) as stopped:
        stage.main()
    assert str(stopped.value).startswith("finetune: ")
    assert missing.split(".")[0] in str(stopped.value)


def test_a_run_is_not_resumed_with_other_options(tmp_path: Path, data: Path, tiny_model: Path) -> None:
    finetune(options(tiny_model, data, tmp_path / "run", max_train_steps=1))
    with pytest.raises(RunFolderError, match=r"learning_rate 0\.003, not 0\.1"):
        finetune(options(tiny_model, data, tmp_path / "run", max_train_steps=1, learning_rate=0.1))


def test_a_run_that_has_ended_says_so_and_is_not_taken_for_one_on_changed_data(
    tmp_path: Path, data: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = options(tiny_model, data, tmp_path / "run", max_train_steps=1)
    finetune(line)
    assert "already finished" not in capsys.readouterr().out
    finetune(line)
    assert "run was already finished, after 1 steps" in capsys.readouterr().out
    records = (data / "train.jsonl").read_text().splitlines(keepends=True)
    (data / "train.jsonl").write_text("".join(records[1:]))
    with pytest.raises(RunFolderError, match=r"other train records than .*train\.jsonl holds now.*--output_dir"):
        finetune(line)
    (data / "train.jsonl").write_text("".join(records))
    (data / "validation.jsonl").unlink()
    with pytest.raises(RunFolderError, match=r"begun with validation records, which are not there now"):
        finetune(line)


def test_a_run_is_not_resumed_from_other_weights_of_the_same_name(tmp_path: Path, data: Path, tiny_model: Path) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    finetune(options(model, data, tmp_path / "run", max_train_steps=1))
    weights = load_file(model / "model.safetensors")
    save_file({name: 2 * tensor for name, tensor in weights.items()}, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(RunFolderError, match=r"other weights than .*model\.safetensors holds now"):
        finetune(options(model, data, tmp_path / "run", max_train_steps=1))


def test_a_run_begun_before_files_were_kept_goes_on_and_keeps_them(
    tmp_path: Path, data: Path, tiny_model: Path
) -> None:
    line = options(tiny_model, data, tmp_path / "run", max_train_steps=1)
    finetune(line)
    path = tmp_path / "run" / "options.json"
    kept = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in kept.items() if name in line.deciding()}))
    finetune(line)
    assert json.loads(path.read_text()) == kept


def test_a_run_is_not_resumed_by_another_number_of_processes(tmp_path: Path, data: Path, tiny_model: Path) -> None:
    line = options(tiny_model, data, tmp_path / "run", max_train_steps=1)
    finetune(line)
    path = tmp_path / "run" / "options.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_processes": 2}))
    with pytest.raises(RunFolderError, match="begun with num_processes 2, not 1"):
        finetune(line)


def test_a_wrong_command_that_trained_nothing_is_corrected_in_the_same_folder(
    tmp_path: Path, data: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CheckpointError):
        finetune(options(tmp_path / "mistyped", data, tmp_path / "run", max_train_steps=1))
    with monkeypatch.context() as patch:
        patch.setattr("training.finetune.train", Mock(side_effect=MemoryError))  # as a batch too large has it
        with pytest.raises(MemoryError):
            finetune(options(tiny_model, data, tmp_path / "run", max_train_steps=1))
    finetune(options(tiny_model, data, tmp_path / "run", max_train_steps=1, per_device_train_batch_size=4))


def test_patience_without_validation_records_is_refused(tmp_path: Path, data: Path, tiny_model: Path) -> None:
    (data / "validation.jsonl").unlink()
    with pytest.raises(DataError, match="--early_stopping_patience needs validation records"):
        finetune(options(tiny_model, data, tmp_path / "run", early_stopping_patience=2))


def test_machines_without_a_shared_disk_are_told_to_share_one(tmp_path: Path, data: Path, tiny_model: Path) -> None:
    line = {"model_name_or_path": tiny_model, "train_file": data / "train.jsonl", "precision": "fp32"}
    finetune(options(tiny_model, data, tmp_path / "0", max_train_steps=1))
    # As if two processes had begun it; each of them then has a folder of its own, as on a disk of its own.
    (tmp_path / "0" / "options.json").unlink()
    script = tmp_path / "machine.py"
    script.write_text(
        "import os, sys\n"
        f"sys.argv += ['--output_dir', {str(tmp_path)!r} + '/' + os.environ['RANK']]\n"
        "from training.finetune import main\n"
        "main()\n"
    )
    flags = [part for name, value in line.items() for part in (f"--{name}", str(value))]
    done = processes(2, str(script), *flags, "--max_train_steps", "5")
    assert done.returncode != 0
    assert "all machines need the same --output_dir" in done.stderr


def test_data_is_found_by_the_names_godel_and_this_project_give_it(tmp_path: Path) -> None:
    for name in ("dstc9_train.jsonl", "dstc9_val.jsonl", "other_train.jsonl"):
        (tmp_path / name).write_text("{}\n")
    assert find_splits(str(tmp_path / "dstc9_dataset.py"), None, {}) == {
        "train": tmp_path / "dstc9_train.jsonl",
        "validation": tmp_path / "dstc9_val.jsonl",
    }
    with pytest.raises(DataError, match=r"dstc9_train\.jsonl, other_train\.jsonl; name the one"):
        find_splits(str(tmp_path), None, {})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train.jsonl").write_text("{}\n")
    assert find_splits(str(tmp_path), "mine", {}) == {"train": tmp_path / "mine" / "train.jsonl"}
    with pytest.raises(DataError, match="not a data set of a hub"):
        find_splits("wizard_of_wikipedia", None, {})
    with pytest.raises(DataError, match="there is no file"):
        find_splits(None, None, {"train": tmp_path / "nowhere.jsonl"})


def test_options_that_decide_the_result_are_kept_beside_it(tmp_path: Path, data: Path, tiny_model: Path) -> None:
    finetune(options(tiny_model, data, tmp_path / "run", max_train_steps=1))
    kept = json.loads((tmp_path / "run" / "options.json").read_text())
    assert kept["learning_rate"] == 0.003
    assert kept["dataset_name"] == str(data)
