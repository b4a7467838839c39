"""What is read out of TorchServe's logs: one exception that says why, and the warnings since the last look."""

from pathlib import Path

import pytest

from launcher.logs import TORCHSERVE, WORKER, Logs

STAMP = "2026-01-01T00:00:00,000"
TRACEBACK = ["Traceback (most recent call last):", '  File "a.py", line 1, in <module>', "    import nothere"]
MISSING = "ModuleNotFoundError: No module named 'nothere'"
GUESSED = "ModuleNotFoundError: No module named 'ts.torch_handler.godel_handler'"
FOR_PEOPLE = "handler.engines.base.EngineError: model/config.json lacks d_model: is this a T5?"


@pytest.fixture
def logs(tmp_path: Path) -> Logs:
    return Logs(tmp_path)


def worker_prints(folder: Path, *lines: str) -> None:
    with (folder / WORKER).open("a") as file:
        file.writelines(f"{STAMP} W-9000-godel_1.0-stdout - {line}\n" for line in lines)


def torchserve_logs(folder: Path, *records: str) -> None:
    with (folder / TORCHSERVE).open("a") as file:
        file.writelines(f"{STAMP} {record}\n" for record in records)


def test_nothing_is_said_before_there_are_logs(logs: Logs) -> None:
    assert not logs.says_load_failed()
    assert logs.load_error() is None
    assert logs.last_error() is None
    assert logs.new_warnings() == []


@pytest.mark.parametrize(
    "record",
    [
        "WARN  BatchAggregator - Load model failed: godel, error: Worker died.",
        "WARN  WorkerThread - Auto recovery failed again",
        "WARN  ModelServer - Failed to load model: godel.mar",
    ],
)
def test_all_ways_of_torchserve_to_give_up_a_load_are_known(logs: Logs, tmp_path: Path, record: str) -> None:
    torchserve_logs(tmp_path, "INFO  ModelServer - Loading initial models: godel.mar")
    assert not logs.says_load_failed()
    torchserve_logs(tmp_path, record)
    assert logs.says_load_failed()


def test_half_a_traceback_is_none(logs: Logs, tmp_path: Path) -> None:
    worker_prints(tmp_path, "Torch worker started.", *TRACEBACK)
    assert logs.load_error() is None
    worker_prints(tmp_path, MISSING)
    assert logs.load_error() == MISSING


def test_a_guess_after_a_failed_import_does_not_hide_it(logs: Logs, tmp_path: Path) -> None:
    again = ["", "During handling of the above exception, another exception occurred:", ""]
    worker_prints(tmp_path, *TRACEBACK, MISSING, *again, *TRACEBACK, GUESSED)
    assert logs.load_error() == MISSING


def test_an_exception_raised_from_another_is_the_one_to_show(logs: Logs, tmp_path: Path) -> None:
    cause = ["", "The above exception was the direct cause of the following exception:", ""]
    worker_prints(tmp_path, *TRACEBACK, "KeyError: 'd_model'", *cause, *TRACEBACK, FOR_PEOPLE)
    worker_prints(tmp_path, "Torch worker started.")
    assert logs.load_error() == FOR_PEOPLE


def test_each_warning_is_told_once_and_without_its_stack(logs: Logs, tmp_path: Path) -> None:
    torchserve_logs(tmp_path, "INFO  ModelServer - started", "WARN  WorkerThread - Auto recovery failed again")
    with (tmp_path / TORCHSERVE).open("a") as file:
        file.write("java.lang.Exception: why\n\tat org.pytorch.Some.where(Some.java:1)\n")
    assert logs.new_warnings() == ["WARN: WorkerThread - Auto recovery failed again"]
    assert logs.new_warnings() == []
    torchserve_logs(tmp_path, "ERROR WorkerThread - lost")
    assert logs.new_warnings() == ["ERROR: WorkerThread - lost"]


def test_a_half_written_warning_waits_for_its_end(logs: Logs, tmp_path: Path) -> None:
    with (tmp_path / TORCHSERVE).open("a") as file:
        file.write(f"{STAMP} WARN  WorkerThread - Auto")
    assert logs.new_warnings() == []
    with (tmp_path / TORCHSERVE).open("a") as file:
        file.write(" recovery\n")
    assert logs.new_warnings() == ["WARN: WorkerThread - Auto recovery"]


def test_a_log_that_was_rolled_over_is_read_from_its_beginning(logs: Logs, tmp_path: Path) -> None:
    torchserve_logs(tmp_path, *["WARN  WorkerThread - one"] * 9)
    assert len(logs.new_warnings()) == 9
    (tmp_path / TORCHSERVE).unlink()
    torchserve_logs(tmp_path, "WARN  WorkerThread - two")
    assert logs.new_warnings() == ["WARN: WorkerThread - two"]


def test_an_earlier_runs_logs_are_set_aside(logs: Logs, tmp_path: Path) -> None:
    worker_prints(tmp_path, *TRACEBACK, MISSING)
    logs.clear()
    assert logs.load_error() is None
    assert MISSING in (tmp_path / f"{WORKER}.old").read_text()
