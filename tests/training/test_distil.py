"""Distillation: the teacher's answers on disk, its distributions in the loss, and what both do to the student."""

import json
import random
import shutil
from datetime import timedelta
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file, save_file

from training.answers import read_answers, write_answers
from training.batches import BatchShape, collate, to_rows
from training.checkpoint import CheckpointError
from training.curves import read_log
from training.data import Pair, Record, read_records, to_pair
from training.distil import distil, distillation_objective, teacher_ids
from training.distil_options import Options, parse
from training.grounded import Draw, RecordSource
from training.losses import answer_objective
from training.model_folder import load_model, save_model
from training.run_folder import RunFolderError
from training.student import make_student


@pytest.fixture(scope="module")
def student(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's student: one decoder layer."""
    return make_student(tiny_model, tmp_path_factory.mktemp("student"), "4", "1", None, [])


def options(teacher: Path, student: Path, data: Path, output: Path, **more: object) -> Options:
    line: dict[str, object] = {
        "teacher": teacher,
        "student": student,
        "data": data / "train.jsonl",
        "output_dir": output,
        "answers": 20,
        "max_train_steps": 12,
        "tokens": 512,
        "learning_rate": 0.005,
        "num_warmup_steps": 2,
        "precision": "fp32",
        "logging_steps": 1,
        **more,
    }
    return parse([part for name, value in line.items() for part in (f"--{name}", str(value))])


def test_a_distillation_leaves_the_teachers_answers_the_curves_and_a_model(
    tmp_path: Path, data: Path, tiny_model: Path, student: Path
) -> None:
    distil(options(tiny_model, student, data, tmp_path / "run"))
    rows = read_log(tmp_path / "run")
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
    assert len(read_answers(tmp_path / "run" / "answers.jsonl")) == 20


def test_a_student_shown_the_distributions_comes_closer_to_them(
    tmp_path: Path, data: Path, tiny_model: Path, student: Path
) -> None:
    with_logits = distil(options(tiny_model, student, data, tmp_path / "with"))
    without = distil(options(tiny_model, student, data, tmp_path / "without", logit_weight=0))
    ends = [read_log(model.parent)[-1]["divergence"] for model in (with_logits, without)]
    assert ends[0] < ends[1]


def test_a_student_that_is_its_teacher_has_no_divergence(tiny_model: Path) -> None:
    teacher, tokenizer = load_model(tiny_model)
    ids = torch.tensor(teacher_ids(tokenizer, tokenizer))
    pair = to_pair(Record(("When does it open?",), "It opens at six.", "It opens at six."))
    batch = collate(to_rows([pair], tokenizer, BatchShape()))
    outcome = distillation_objective(teacher, ids, 1.0, 2.0, 0.5)(teacher, batch)
    number, total = outcome.counts["divergence"]
    assert float(number) == pytest.approx(0.0, abs=1e-3)
    assert total == batch.targets
    plain = answer_objective(0.5)(teacher, batch)
    assert float(outcome.loss) == pytest.approx(float(plain.loss), rel=1e-4)


def test_a_student_of_fewer_tokens_is_compared_on_those_it_has(tmp_path: Path, data: Path, tiny_model: Path) -> None:
    folder = make_student(tiny_model, tmp_path / "student", "4", "2", 400, [data / "train.jsonl"])
    model, tokenizer = load_model(folder)
    teacher, whole = load_model(tiny_model)
    ids = teacher_ids(tokenizer, whole)
    assert len(ids) == 400
    pair = to_pair(Record(("When does it open?",), "It opens at six.", "It opens at six."))
    batch = collate(to_rows([pair], tokenizer, BatchShape()))
    outcome = distillation_objective(teacher, torch.tensor(ids), 1.0, 1.0, 0.0)(model, batch)
    # All layers are the teacher's, and so are the embeddings: what is left are the tokens it no longer has.
    assert float(outcome.counts["divergence"][0]) == pytest.approx(0.0, abs=1e-3)


def test_models_with_more_embeddings_than_tokens_are_compared_on_the_tokens(tmp_path: Path, tiny_model: Path) -> None:
    model, tokenizer = load_model(tiny_model)
    model.resize_token_embeddings(tokenizer.get_vocab_size() + 28)
    teacher, _ = load_model(save_model(model, tokenizer, tmp_path / "teacher"))
    ids = torch.tensor(teacher_ids(tokenizer, tokenizer))
    pair = to_pair(Record(("When does it open?",), "It opens at six.", "It opens at six."))
    batch = collate(to_rows([pair], tokenizer, BatchShape()))
    outcome = distillation_objective(teacher, ids, 1.0, 2.0, 0.0)(teacher, batch)
    assert float(outcome.counts["divergence"][0]) == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("changed", ["weights of the teacher", "weights of the student", "records of"])
def test_a_distillation_does_not_go_on_with_a_changed_model_or_changed_records(
    tmp_path: Path, data: Path, tiny_model: Path, student: Path, changed: str
) -> None:
    teacher, student = shutil.copytree(tiny_model, tmp_path / "t"), shutil.copytree(student, tmp_path / "s")
    line = options(teacher, student, data, tmp_path / "run", answers=4, max_train_steps=1)
    distil(line)
    if changed == "records of":
        with (data / "train.jsonl").open("a") as file:
            file.write((data / "validation.jsonl").read_text())
    else:
        weights = (student if changed.endswith("student") else teacher) / "model.safetensors"
        save_file({name: 2 * tensor for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    with pytest.raises(RunFolderError, match=f"begun with other {changed}.* holds now"):
        distil(line)


def test_a_distillation_without_an_answer_yet_may_be_begun_otherwise_but_not_after(
    tmp_path: Path, data: Path, tiny_model: Path, student: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("training.distil.write_answers", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            distil(options(tiny_model, student, data, tmp_path / "run", answers=5))
    distil(options(tiny_model, student, data, tmp_path / "run", answers=4, max_train_steps=1))
    with pytest.raises(RunFolderError, match="begun with answers 4, not 5"):
        distil(options(tiny_model, student, data, tmp_path / "run", answers=5, max_train_steps=1))
    path = tmp_path / "run" / "options.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_processes": 2}))
    with pytest.raises(RunFolderError, match="begun with num_processes 2, not 1"):
        distil(options(tiny_model, student, data, tmp_path / "run", answers=4, max_train_steps=1))


def test_processes_wait_for_the_teachers_answers_for_hours(
    tmp_path: Path, data: Path, tiny_model: Path, student: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    met = Mock(side_effect=ConnectionError)
    monkeypatch.setattr("torch.distributed.init_process_group", met)
    started = {
        "RANK": 0,
        "LOCAL_RANK": 0,
        "WORLD_SIZE": 2,
        "LOCAL_WORLD_SIZE": 2,
        "MASTER_PORT": 1,
        "OMP_NUM_THREADS": 1,
    }
    for name, value in started.items():  # as torchrun sets them
        monkeypatch.setenv(name, str(value))
    with pytest.raises(ConnectionError):
        distil(options(tiny_model, student, data, tmp_path / "run"))
    assert met.call_args.kwargs["timeout"] >= timedelta(days=1)


def test_a_student_of_another_tokenizer_is_refused(tiny_model: Path) -> None:
    _, tokenizer = load_model(tiny_model)
    _, other = load_model(tiny_model)
    other.add_tokens(["foreign"])
    with pytest.raises(CheckpointError, match="'foreign'"):
        teacher_ids(other, tokenizer)


def test_answers_cut_short_go_on_to_the_same_file(tmp_path: Path, data: Path, tiny_model: Path) -> None:
    source = RecordSource(read_records(data / "train.jsonl"), Draw(words=40))
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    write_answers(whole, source, tiny_model, count=6, reference_share=0.3, seed=1)
    text = whole.read_text()
    cut.write_text(text[: text.index("\n", text.index("\n") + 1) + 20])  # two lines and a piece of the third
    write_answers(cut, source, tiny_model, count=6, reference_share=0.3, seed=1)
    assert cut.read_text() == text


def test_references_are_kept_by_share_and_where_there_is_no_answer(
    tmp_path: Path, data: Path, tiny_model: Path
) -> None:
    records = read_records(data / "train.jsonl")
    references = {record.response for record in records}
    write_answers(
        tmp_path / "all", RecordSource(records, Draw(words=40)), tiny_model, count=5, reference_share=1, seed=1
    )
    assert all(pair.target in references for pair in read_answers(tmp_path / "all"))
    refusing = RecordSource(records, Draw(words=40, unanswerable=1.0))
    write_answers(tmp_path / "none", refusing, tiny_model, count=5, reference_share=0, seed=1)
    drawn = [refusing(random.Random(f"1:{number}")) for number in range(5)]
    assert [pair.target for pair in read_answers(tmp_path / "none")] == [pair.target for pair in drawn]


def test_a_line_of_answers_is_a_pair(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(json.dumps({"prompt": "p", "target": "t", "grounds": None}) + "\n")
    assert read_answers(tmp_path / "a") == [Pair("p", "t")]


def test_nothing_to_draw_prompts_from_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--teacher", "t", "--student", "s", "--output_dir", "o"])
    assert "--data FILE.jsonl" in capsys.readouterr().err
