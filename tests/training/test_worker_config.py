"""A slip in `handler/model-config.yaml` is told by name when an archive is built, not where nobody looks."""

from pathlib import Path

import pytest

from handler.contract.archive import ArchiveError
from training.worker_config import MODEL_CONFIG, worker_config


def test_the_projects_own_settings_are_taken_with_engine_and_precision() -> None:
    config = worker_config("torch", "bf16")
    assert (config["handler"]["engine"], config["handler"]["precision"]) == ("torch", "bf16")
    assert config["continuousBatching"] is True


@pytest.mark.parametrize(
    ("line", "instead", "said"),
    [
        ("minWorkers: 1", "minWorkers: 2", "must be 1 with continuousBatching"),
        ("batchSize: 16", "batchSize: abc", "batchSize: must be a whole number, not 'abc'"),
        ("handler:", "handler", "is no YAML"),
        ("    threads: null", "\tthreads: null", "is no YAML"),
        ("threads: null", "threads: many", "handler.threads: must be a whole number, not 'many'"),
        ("threads: null", "thread: 2", "handler.thread is no setting; did you mean threads?"),
        ("threads: null", "engine: torch", "say ENGINE=... to make"),
        ("responseTimeout: 15", "respnseTimeout: 15", "did you mean responseTimeout?"),
        ('deviceType: "cpu"', "deviceType: gppu", "deviceType: must be cpu or gpu"),
        ("max_prompt_tokens: 512", "max_prompt_tokens:", "handler.max_prompt_tokens: must be a whole number, not None"),
        ("max_prompt_tokens: 512", "max_prompt_tokens: 0", "handler.max_prompt_tokens: must be at least 1, not 0"),
        ("call_milliseconds: 60", "call_milliseconds: .inf", "handler.call_milliseconds: must be a number"),
    ],
)
def test_a_slip_is_told_with_the_name_of_the_setting(tmp_path: Path, line: str, instead: str, said: str) -> None:
    text = MODEL_CONFIG.read_text(encoding="utf-8")
    assert line in text
    path = tmp_path / "model-config.yaml"
    path.write_text(text.replace(line, instead, 1), encoding="utf-8")
    with pytest.raises(ArchiveError) as caught:
        worker_config("onnx", "auto", path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)


def test_an_empty_file_holds_no_settings(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(ArchiveError, match="holds no settings"):
        worker_config("onnx", "auto", tmp_path / "empty.yaml")


def test_classic_batching_may_have_several_workers_and_what_else_torchserve_knows(tmp_path: Path) -> None:
    text = MODEL_CONFIG.read_text(encoding="utf-8")
    text = text.replace("continuousBatching: true", "continuousBatching: false").replace(
        "maxWorkers: 1", "maxWorkers: 3"
    )
    path = tmp_path / "classic.yaml"
    path.write_text(text + "parallelType: pp\n")
    assert worker_config("onnx", "auto", path)["maxWorkers"] == 3
