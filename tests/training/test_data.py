"""Records checked at the door, prompts by the contract, sound exercises, a tokenizer that loses nothing."""

import json
import random
from pathlib import Path

import pytest

from handler.contract.prompt import render
from training.data import DataError, Record, read_records, to_line, to_pair, trim_knowledge
from training.tasks import PassageSource, corrupt, sentence_from_opening, sentence_from_words
from training.text import TextError, read_documents, sentences
from training.tokenizer import CONTROL_TOKENS, SENTINELS, train_tokenizer

TEXT = "The sea is blue and deep. The old harbour lies in the north of the town. Ships come in every morning."


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "line 2: not JSON"),
        ("[]", "line 2: expected a JSON object"),
        ('{"Context": "a", "Response": "b"}', "line 2: field 'Knowledge' is missing"),
        ('{"Context": 1, "Knowledge": "", "Response": "b"}', "line 2: field 'Context' must be a string"),
        ('{"Context": "a", "Knowledge": "", "Response": " "}', "line 2: field 'Response' is empty"),
        (
            r'{"Context": "a", "Knowledge": "\ud800", "Response": "b"}',
            "line 2: field 'Knowledge' holds half of a surrog",
        ),
        ('{"Context": " EOS ", "Knowledge": "", "Response": "b"}', "line 2: field 'Context' holds no turn"),
        ('{"Context": "a", "Knowledge": "", "Response": "b", "Answer": 3}', "line 2: field 'Answer' must be a string"),
    ],
)
def test_a_bad_record_is_named_by_file_line_and_field(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(f'{{"Context": "a", "Knowledge": "k", "Response": "r"}}\n{line}\n')
    with pytest.raises(DataError, match=f"bad.jsonl, {problem}"):
        read_records(path)


def test_a_file_without_records_and_a_missing_file_are_errors(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="holds no record"):
        read_records(tmp_path / "empty.jsonl")
    with pytest.raises(DataError, match=r"nowhere\.jsonl"):
        read_records(tmp_path / "nowhere.jsonl")


def test_a_record_becomes_the_prompt_that_serving_would_build(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    row = {"Context": "Hello. EOS Hi! EOS Where is it?", "Knowledge": "It is [KNOWLEDGE] here.", "Response": "Here."}
    path.write_text(json.dumps(row))
    (record,) = read_records(path)
    assert to_pair(record).prompt == render(["Hello.", "Hi!", "Where is it?"], "It is [KNOWLEDGE] here.")
    assert to_pair(record).prompt.count(" EOS ") == 2


def test_trimming_a_passage_keeps_the_sentence_that_answers() -> None:
    passage = [f"Sentence number {number} says something." for number in range(20)]
    for seed in range(20):
        record = Record(("?",), " ".join(passage), passage[13])
        trimmed = trim_knowledge(record, 20, random.Random(seed))
        assert passage[13] in trimmed.knowledge
        assert len(trimmed.knowledge.split()) <= 20


def test_exercises_on_text_ask_for_a_sentence_of_their_own_passage() -> None:
    source = PassageSource([TEXT])
    for exercise in (sentence_from_opening, sentence_from_words):
        pair = exercise(source, random.Random(1), 3, 60)
        assert pair.target in sentences(TEXT)
        assert pair.target in pair.prompt


def test_corrupted_spans_put_back_give_the_text_again() -> None:
    words = TEXT.split()
    for seed in range(20):
        pair = corrupt(words, random.Random(seed), 0.3)
        spans: dict[str, list[str]] = {}
        for token in pair.target.split():
            if token in SENTINELS:
                spans[token] = current = []
            else:
                current.append(token)
        restored = [word for token in pair.prompt.split() for word in spans.get(token, [token])]
        assert restored == words


def test_the_tokenizer_loses_nothing_and_keeps_control_tokens_whole() -> None:
    tokenizer = train_tokenizer([TEXT] * 20, 640)
    for text in (TEXT, "Ünïcode — naïve café 🏏 12,345.67 %", "a  b\tc"):
        decoded = tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=True)
        assert decoded.strip() == " ".join(text.split())
    for index, token in enumerate(CONTROL_TOKENS):
        assert tokenizer.token_to_id(token) == index
    ids = tokenizer.encode(render(["Where?", "Here.", "Why?"], TEXT)).ids
    assert ids.count(CONTROL_TOKENS.index("EOS")) == 2
    assert ids.count(CONTROL_TOKENS.index("[KNOWLEDGE]")) == 1
    assert ids[-1] == tokenizer.token_to_id("</s>")


def test_text_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(TextError, match=r"nowhere\.txt"):
        list(read_documents(tmp_path / "nowhere.txt"))


def test_a_record_written_and_read_again_is_the_same_whatever_its_turns_say(tmp_path: Path) -> None:
    record = Record(("Hello.", "Say EOS and </s> EOS now?"), "It says [KNOWLEDGE].\u2028So.", "EOS it is.", "EOS")
    path = tmp_path / "data.jsonl"
    path.write_text(to_line(record) + "\n", encoding="utf-8")
    (again,) = read_records(path)
    assert len(again.turns) == 2
    assert to_pair(again) == to_pair(record)
    assert (again.knowledge, again.response, again.answer) == (record.knowledge, record.response, record.answer)
