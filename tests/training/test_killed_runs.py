"""What a SIGKILL and a full disk do to runs in processes of their own."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from training.curves import LOG, read_log
from training.run_folder import STATE, load_state
from training.student import make_student

pytestmark = pytest.mark.timeout(300)

COMMON = ["--precision", "fp32", "--learning_rate", "0.003", "--logging_steps", "1", "--state_steps", "3"]
STEPS = 24


def command(stage: str, model: Path, student: Path, data: Path, output: Path) -> list[str]:
    own = {
        "finetune": [
            "--model_name_or_path", str(model), "--dataset_name", str(data), "--per_device_train_batch_size", "8",
            "--max_eval_records", "0",
        ],
        "distil": [
            "--teacher", str(model), "--student", str(student), "--data", str(data / "train.jsonl"), "--answers", "10",
            "--tokens", "512",
        ],
    }[stage]  # fmt: skip
    return [
        sys.executable, "-m", f"training.{stage}", *own, *COMMON,
        "--max_train_steps", str(STEPS), "--output_dir", str(output),
    ]  # fmt: skip


def kill_after_rows(arguments: list[str], folder: Path, rows: int) -> None:
    """Start a run and kill it with SIGKILL once its log has so many rows; it must not have ended by then."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and len(read_log(folder)) < rows:
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL


@pytest.mark.parametrize("stage", ["finetune", "distil"])
def test_a_run_killed_at_a_random_step_ends_with_the_loss_of_an_unbroken_one(
    stage: str, tmp_path: Path, data: Path, tiny_model: Path
) -> None:
    student = make_student(tiny_model, tmp_path / "student", "4", "1", None, [])
    outputs = {name: tmp_path / name for name in ("unbroken", "killed")}
    lines = {name: command(stage, tiny_model, student, data, output) for name, output in outputs.items()}
    subprocess.run(lines["unbroken"], check=True, capture_output=True)
    rows = random.randrange(4, STEPS - 8)
    kill_after_rows(lines["killed"], outputs["killed"], rows)
    state = load_state(outputs["killed"])
    assert state, f"killed after {rows} rows, before the first state"
    assert state["progress"]["step"] < STEPS
    subprocess.run(lines["killed"], check=True, capture_output=True)
    losses = {name: [row["loss"] for row in read_log(output) if "loss" in row] for name, output in outputs.items()}
    assert len(losses["unbroken"]) == STEPS
    assert losses["killed"] == pytest.approx(losses["unbroken"], abs=1e-4), f"killed after {rows} rows"
    ends = [load_file(output / "model" / "model.safetensors") for output in outputs.values()]
    for name, tensor in ends[0].items():
        torch.testing.assert_close(ends[1][name], tensor, atol=1e-5, rtol=1e-4)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 600 kB, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "none", str(folder)], capture_output=True)  # noqa: S607
    if mounted.returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)  # noqa: S607


def test_a_full_disk_is_a_clear_error_and_leaves_no_half_written_checkpoint(
    tmp_path: Path, data: Path, tiny_model: Path, small_disk: Path
) -> None:
    output = small_disk / "run"
    output.mkdir()
    filler = small_disk / "filler"
    filler.write_bytes(os.urandom(450_000))
    arguments = command("finetune", tiny_model, tmp_path, data, output)
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("finetune: ")
    assert "cannot be written" in last or "No space left" in last
    assert "Traceback" not in done.stderr
    assert not (output / STATE).is_file()
    assert not (output / "model").is_dir()
    assert not [path for path in output.iterdir() if path.name.endswith(".half")]
    filler.unlink()
    (output / LOG).unlink(missing_ok=True)
