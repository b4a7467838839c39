"""The evaluate command on the embedded model: what it prints, writes and refuses."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from training.data import Record
from training.evaluate import main
from training.samples_page import marked, samples_page

MODEL = Path(__file__).parent.parent.parent / "models" / "embedded"
METRICS = {"f1", "rouge1", "rouge2", "rougeL", "bleu", "distinct2", "knowledge_overlap", "words_per_reply"}
ROWS = [
    {
        "Context": "When does the Amber Cafe open?",
        "Knowledge": "The Amber Cafe stands in River Street. The Amber Cafe is open from nine.",
        "Response": "The Amber Cafe is open from nine.",
        "Answer": "nine",
    },
    {"Context": "Hello! EOS Hi. EOS How are you?", "Knowledge": "", "Response": "I am <b>well</b>."},
    {"Context": "Who runs it?", "Knowledge": "It is run by Anna Berg.", "Response": "It is run by Anna Berg."},
]


@pytest.fixture
def records(tmp_path: Path) -> Path:
    path = tmp_path / "records.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS))
    return path


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, arguments)])
    main()


def test_the_last_line_is_the_metrics_as_json_and_the_page_can_be_read(
    tmp_path: Path, records: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "made" / "out.json"
    call(monkeypatch, "--model", MODEL, "--data", records, "--json", output, "--samples", "2")
    lines = capsys.readouterr().out.splitlines()
    result: dict[str, Any] = json.loads(lines[-1])
    assert set(result) == {"data", "n", "answer_hit", "ms_per_reply", "tokens_per_step", "baselines"} | METRICS
    assert (result["data"], result["n"]) == ("records.jsonl", 3)
    assert json.loads(output.read_text()) == result
    assert set(result["baselines"]) == {"first sentence", "best overlap"}
    assert result["baselines"]["best overlap"]["answer_hit"] == 1.0
    assert result["baselines"]["first sentence"]["answer_hit"] == 0.0
    assert METRICS | {"answer_hit", "ms_per_reply"} <= {line.split()[0] for line in lines[1:] if line}
    page = output.with_suffix(".html").read_text()
    assert page.count("<article>") == 2
    assert "open from <mark>nine</mark>." in page
    assert "I am &lt;b&gt;well&lt;/b&gt;." in page
    assert sorted(path.name for path in output.parent.iterdir()) == ["out.html", "out.json"]


def test_what_is_not_known_is_null(
    records: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    records.write_text(json.dumps(ROWS[1]))
    call(monkeypatch, "--model", MODEL, "--data", records, "--engine", "echo")
    result = json.loads(capsys.readouterr().out.splitlines()[-1], parse_constant=pytest.fail)
    assert result["answer_hit"] is None
    assert result["knowledge_overlap"] is None


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--model", "nowhere"], "there is no checkpoint folder nowhere"),
        (["--engine", "tortch"], "engine 'tortch' is not known; use onnx or torch or echo"),
        (["--precision", "fp16"], "fp16 is refused"),
        (["--data", "none.jsonl"], "none.jsonl cannot be read"),
        (["--data", os.devnull], f"{os.devnull} holds no record"),
        (["--limit", "0"], "--limit: 0 is less than 1"),
        (["--limit", "few"], "--limit: invalid whole number value: 'few'"),
        (["--json", str(MODEL)], "is a folder; a file goes there"),
        (["--json", "/dev/null/out.json"], "/dev/null/out.json cannot be written"),
        (["--samples", "1", "--samples_page", "/dev/null/page.html"], "/dev/null/page.html cannot be written"),
        (["--samples_page", "page.html"], "--samples_page goes with --samples"),
        (["--samples", "1", "--json", "page.html"], "--json and --samples_page name the same file"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_answered(
    records: Path,
    arguments: list[str],
    problem: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("training.evaluate.answer_all", lambda *_: pytest.fail("the model was asked"))
    with pytest.raises(SystemExit) as stopped:
        call(monkeypatch, "--model", MODEL, "--data", records, *arguments)
    assert problem in f"{stopped.value} {capsys.readouterr().err}"


def test_the_page_shows_text_as_text_and_says_hit_or_miss() -> None:
    record = Record(("<script>?",), "C&A is C&A, not CC&A.", "C&A.", "C&A")
    page = samples_page([record, record], ["It is c&a.", "no"], "a < b")
    assert "<script>" not in page
    assert "a &lt; b" in page
    assert page.count('class="hit"') == page.count('class="miss"') == 1


def test_the_gold_answer_is_marked_where_it_stands_as_words() -> None:
    assert marked("C&A is c&a, not CC&A.", "C&A") == "<mark>C&amp;A</mark> is <mark>c&amp;a</mark>, not CC&amp;A."
    assert marked("<i>", None) == marked("<i>", " ") == "&lt;i&gt;"
