"""Data folders made of DSTC9, SQuAD and JSON lines: what comes out, and what each bad item is told."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from training.data import DataError, Record, read_records
from training.dstc9 import find_dstc9, read_dstc9, sample
from training.grounded import REFUSALS
from training.prepare import main, split_by_passage
from training.squad import read_squad, sentence_of

TOKENIZER = Path(__file__).parent.parent.parent / "models" / "embedded" / "tokenizer.json"
KNOWLEDGE = {
    "hotel": {"7": {"name": "Amber", "docs": {"0": {"title": "Pets?", "body": "No pets."}}}},
    "taxi": {"*": {"name": None, "docs": {"3": {"title": "Cash?", "body": "Cards only."}}}},
}
PETS = {"domain": "hotel", "entity_id": 7, "doc_id": 0}
CASH = {"domain": "taxi", "entity_id": "*", "doc_id": 3}
PASSAGE = "The harbour is old. It was built by Dr. Weld in 1702, they say. Ships come in."


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"speaker": "US"[number % 2], "text": text} for number, text in enumerate(texts)]


def target(response: str, *knowledge: dict[str, Any]) -> dict[str, Any]:
    return {"target": True, "knowledge": list(knowledge), "response": response}


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def dstc9(tmp_path: Path) -> Path:
    """The layout of the published repository, with two targets in train and one in val."""
    data = tmp_path / "dstc9" / "data"
    write(data / "knowledge.json", KNOWLEDGE)
    write(
        data / "train" / "logs.json",
        [turns("Book it.", "Done."), turns("Hi EOS there.", "Hello.", "Pets?"), turns("Both?")],
    )
    write(
        data / "train" / "labels.json",
        [{"target": False}, target("No pets, sorry.", PETS), target("Neither.", PETS, CASH)],
    )
    write(data / "val" / "logs.json", [turns("Can I pay cash?")])
    write(data / "val" / "labels.json", [target("By card.", CASH)])
    return tmp_path / "dstc9"


def squad(passage: str, *questions: dict[str, Any]) -> dict[str, Any]:
    return {"version": "v2.0", "data": [{"title": "x", "paragraphs": [{"context": passage, "qas": list(questions)}]}]}


def question(text: str, answer: str, start: int | None = None) -> dict[str, Any]:
    start = PASSAGE.index(answer) if start is None else start
    return {"question": text, "answers": [{"text": answer, "answer_start": start}]}


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", ["data", *map(str, arguments)])
    main()


def test_dstc9_becomes_its_targets_each_split_in_its_own_file(
    dstc9: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    call(monkeypatch, "--dstc9", dstc9, "--output", output)
    assert [json.loads(line) for line in (output / "train.jsonl").read_text().splitlines()] == [
        {
            "Context": "Hi Eos there. EOS Hello. EOS Pets?",
            "Knowledge": "Q: Pets? A: No pets.",
            "Response": "No pets, sorry.",
        },
        {"Context": "Both?", "Knowledge": "Q: Pets? A: No pets. Q: Cash? A: Cards only.", "Response": "Neither."},
    ]
    (only,) = read_records(output / "validation.jsonl")
    assert only == Record(("Can I pay cash?",), "Q: Cash? A: Cards only.", "By card.")
    assert sorted(path.name for path in output.iterdir()) == ["report.json", "train.jsonl", "validation.jsonl"]


def test_a_git_repository_is_cloned_once(dstc9: Path, tmp_path: Path) -> None:
    bare, cache = tmp_path / "published.git", tmp_path / "cache"
    for command in (
        ["git", "init", "-q", str(dstc9)],
        ["git", "-C", str(dstc9), "add", "."],
        ["git", "-C", str(dstc9), "-c", "user.name=x", "-c", "user.email=x@y", "commit", "-qm", "data"],
        ["git", "clone", "-q", "--bare", str(dstc9), str(bare)],
    ):
        subprocess.run(command, check=True)
    first = find_dstc9(f"file://{bare}", cache)
    assert read_dstc9(first, "validation") == read_dstc9(dstc9, "validation")
    bare.rename(tmp_path / "gone.git")
    assert find_dstc9(f"file://{bare}", cache) == first
    with pytest.raises(DataError, match=r"published\.git cannot be cloned: git says .*clone it elsewhere"):
        find_dstc9(str(bare), cache)
    assert list(cache.iterdir()) == [first]


def test_a_folder_that_is_not_the_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data/knowledge\.json is missing"):
        find_dstc9(str(tmp_path), tmp_path / "cache")


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("labels.json", "{", r"labels\.json is not JSON"),
        ("labels.json", "{}", r"labels\.json: expected a list, found dict"),
        ("labels.json", "[]", "logs.json has 1 items and labels.json 0"),
        ("labels.json", '[{"target": 1}]', r"labels\.json, item 0: field 'target' must be true or false, found int"),
        ("labels.json", '[{"target": false}]', "has no item whose 'target' is true"),
        ("labels.json", '[{"target": true, "response": "x"}]', "item 0: field 'knowledge' is missing"),
        ("labels.json", json.dumps([target(" ", PETS)]), "item 0: field 'response' is empty"),
        ("labels.json", json.dumps([target("x", {"domain": "taxi"})]), "field 'entity_id' is missing"),
        (
            "labels.json",
            json.dumps([target("x", PETS | {"doc_id": 9})]),
            "item 0: knowledge.json has no .*hotel / 7 / 9",
        ),
        ("logs.json", "[[]]", r"logs\.json, item 0: expected a list of turns"),
        ("logs.json", '[[{"text": "a"}, {"speaker": "U"}]]', r"logs\.json, item 0, turn 1: field 'text' is missing"),
        ("logs.json", '[[{"text": "a"}, {"text": " "}]]', "item 0, turn 1: field 'text' is empty"),
    ],
)
def test_a_bad_item_of_dstc9_is_named_by_file_item_and_field(
    dstc9: Path, file: str, content: str, problem: str
) -> None:
    (dstc9 / "data" / "val" / file).write_text(content)
    with pytest.raises(DataError, match=problem):
        read_dstc9(dstc9, "validation")


def test_the_sample_of_the_official_training_records_is_godels_501() -> None:
    records = [Record((str(number),), "", "x") for number in range(19_184)]
    random.seed(2022)
    expected = [record for record in records if random.random() < 0.025]
    assert sample(records, 0.025, 2022) == expected
    assert len(expected) == 501


def test_squad_answers_in_the_sentence_that_holds_the_span(tmp_path: Path) -> None:
    path = write(
        tmp_path / "s.json",
        squad(
            PASSAGE,
            question("When EOS was it built?", "1702"),
            {"question": "Why?", "answers": [], "is_impossible": True},
        ),
    )
    sentence = "It was built by Dr. Weld in 1702, they say."
    assert read_squad(path) == [Record(("When EOS was it built?",), PASSAGE, sentence, "1702")]
    refused = read_squad(path, unanswerable=True, seed=1)[1]
    assert refused.answer is None
    assert refused.response in REFUSALS
    assert read_squad(path, unanswerable=True, seed=1)[1] == refused


def test_a_span_across_sentences_and_a_repeated_sentence_are_found_where_they_stand() -> None:
    start = PASSAGE.index("old")
    assert sentence_of(PASSAGE, start, PASSAGE.index("built") + 5) == PASSAGE[: PASSAGE.index(" Ships")]
    twice = "Yes. It is. Yes. It was."
    assert sentence_of(twice, 12, 15) == "Yes."
    for start in range(len(PASSAGE)):
        assert PASSAGE[start : start + 1].strip() in sentence_of(PASSAGE, start, start + 1)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([], r"s\.json: expected a JSON object, found list"),
        ({"data": [{}]}, "article 0: field 'paragraphs' is missing"),
        ({"data": [{"paragraphs": [{"qas": []}]}]}, "article 0, paragraph 0: field 'context' is missing"),
        (squad(PASSAGE, {"question": "a"}), "paragraph 0, question 0: field 'answers' is missing"),
        (squad(PASSAGE, {"question": "a", "answers": []}), "field 'answers' is empty, and 'is_impossible' is not true"),
        (squad(PASSAGE, question("a", "1702", 3)), "field 'answer_start' is 3, where '1702' does not stand"),
        (squad(PASSAGE, question(" ", "1702")), "field 'question' is empty"),
        (squad(PASSAGE), "holds no question"),
    ],
)
def test_a_bad_item_of_squad_is_named_by_file_place_and_field(tmp_path: Path, content: Any, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        read_squad(write(tmp_path / "s.json", content))


def test_no_passage_stands_on_both_sides_of_a_split() -> None:
    records = [Record((f"{number}?",), f"Passage {number % 7}.", "x") for number in range(50)]
    for seed in range(20):
        train, validation = split_by_passage(records, 0.3, seed)
        assert len({record.knowledge for record in validation}) == 2
        assert {record.knowledge for record in train}.isdisjoint(record.knowledge for record in validation)
        assert sorted(train + validation, key=records.index) == records
    with pytest.raises(DataError, match="give a file for --validation"):
        split_by_passage(records[:1], 0.3, 0)


def test_the_report_counts_what_the_files_hold_and_what_a_prompt_would_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    long = {"Context": "Old. EOS Hm. EOS New?", "Knowledge": "Some words stand here. " * 300, "Response": "Some words."}
    short = {"Context": "Hello!", "Knowledge": "", "Response": "Hello, you.", "Answer": "Hello"}
    train, validation = tmp_path / "t.jsonl", tmp_path / "v.jsonl"
    train.write_text("\n".join(map(json.dumps, [long, short, short])))
    validation.write_text(json.dumps(short))
    output = tmp_path / "out"
    call(monkeypatch, "--jsonl", train, "--validation", validation, "--output", output, "--tokenizer", TOKENIZER)
    report = json.loads((output / "report.json").read_text())
    found = report["train"]
    assert (found["records"], found["duplicates"], found["empty_knowledge"], found["with_answer"]) == (3, 1, 2, 2)
    assert found["words"]["knowledge"] == {"mean": 400.0, "median": 0, "p95": 1200, "most": 1200}
    assert found["turns"]["most"] == 3
    assert found["cut"]["records"] == 1
    assert found["cut"]["turns"] == 2
    assert 0 < found["cut"]["knowledge_words"] < 1200
    assert found["tokens"]["prompt"]["most"] > 512
    assert report["validation"]["also_in_train"] == 1
    assert report["validation"]["cut"]["records"] == 0
    printed = capsys.readouterr().out
    assert "cut knowledge_words" in printed
    assert str(output / "report.json") in printed
    assert len(read_records(output / "train.jsonl")) == 3


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "one of the arguments --dstc9 --squad --jsonl is required"),
        (["--jsonl", "nowhere.jsonl"], "nowhere.jsonl cannot be read"),
        (["--squad", "nowhere.json"], "nowhere.json cannot be read"),
        (["--dstc9", "nowhere"], "nowhere is no copy of the DSTC9 track 1 data"),
        (["--dstc9", "x", "--validation", "y"], "--validation: DSTC9 has a validation split of its own"),
        (["--jsonl", "x", "--unanswerable"], "--unanswerable goes with --squad"),
        (["--jsonl", "x", "--sample", "3"], "3 is not between 0 and 1"),
        (["--jsonl", "x", "--tokenizer", "nowhere.json"], "nowhere.json cannot be read as a tokenizer"),
        (["--jsonl", "x", "--output", "/dev/null"], "cannot be written"),
    ],
)
def test_what_cannot_be_made_is_said_and_nothing_is_written(
    tmp_path: Path,
    arguments: list[str],
    problem: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stopped:
        call(monkeypatch, "--output", tmp_path / "out", *arguments)
    assert problem in f"{stopped.value} {capsys.readouterr().err}"
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_a_bad_record_leaves_the_data_that_stood_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, output = tmp_path / "s.jsonl", tmp_path / "out"
    rows = [{"Context": "a", "Knowledge": passage, "Response": "r"} for passage in ("k", "l")]
    source.write_text("\n".join(map(json.dumps, rows)))
    call(monkeypatch, "--jsonl", source, "--output", output)
    before = {path.name: path.read_text() for path in output.iterdir()}
    source.write_text('{"Context": "a"}')
    with pytest.raises(SystemExit, match=r"s\.jsonl, line 1: field 'Knowledge' is missing"):
        call(monkeypatch, "--jsonl", source, "--output", output)
    assert {path.name: path.read_text() for path in output.iterdir()} == before


def test_the_module_named_in_the_documentation_runs() -> None:
    done = subprocess.run([sys.executable, "-m", "training.data", "--help"], capture_output=True, text=True, check=True)
    assert "--dstc9" in done.stdout
