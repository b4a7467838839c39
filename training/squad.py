"""SQuAD's JSON, versions 1.1 and 2: questions on passages as grounded records that answer in a sentence.

The response is the sentence of the passage that holds the answer's span, the answer the span itself; where several
people answered, the first. SQuAD 2's questions without an answer are left out unless asked for: a bot that is
trained on many of them refuses what it could answer.
"""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from training.data import DataError, Record, field, read_json
from training.grounded import REFUSALS
from training.text import sentences


def read_squad(path: Path, *, unanswerable: bool = False, seed: int = 0) -> list[Record]:
    """Return the records of a SQuAD file. Raises DataError naming file, question and field.

    With `unanswerable`, a question that the passage does not answer is answered by one of REFUSALS, drawn by `seed`.
    """
    rng = random.Random(seed)
    records = []
    for where, passage, question in _questions(path):
        turns = (field(question, "question", str, where).strip(),)
        if not turns[0]:
            raise DataError(f"{where}: field 'question' is empty")
        if question.get("is_impossible", False):
            if unanswerable:
                records.append(Record(turns, passage, rng.choice(REFUSALS)))
            continue
        answers = field(question, "answers", list, where)
        if not answers:
            raise DataError(f"{where}: field 'answers' is empty, and 'is_impossible' is not true")
        answer, start = field(answers[0], "text", str, where), field(answers[0], "answer_start", int, where)
        if not answer.strip() or start < 0 or passage[start : start + len(answer)] != answer:
            raise DataError(f"{where}: field 'answer_start' is {start}, where {answer!r} does not stand")
        records.append(Record(turns, passage, sentence_of(passage, start, start + len(answer)), answer))
    if not records:
        raise DataError(f"{path} holds no question with an answer")
    return records


def sentence_of(passage: str, start: int, end: int) -> str:
    """Return the sentence of `passage` that holds `passage[start:end]`: several, where the span crosses their ends."""
    first, last, position = 0, len(passage), 0
    for sentence in sentences(passage):
        position = passage.index(sentence, position)
        if position <= start:
            first = position
        position += len(sentence)
        if position >= end:
            last = position
            break
    return passage[first:last].strip()


def _questions(path: Path) -> Iterator[tuple[str, str, Any]]:
    """Yield where each question stands, its passage and the question."""
    articles = field(read_json(path), "data", list, str(path))
    for number, article in enumerate(tqdm(articles, desc=path.name, unit=" articles")):
        for count, paragraph in enumerate(field(article, "paragraphs", list, f"{path}, article {number}")):
            where = f"{path}, article {number}, paragraph {count}"
            passage = field(paragraph, "context", str, where)
            for index, question in enumerate(field(paragraph, "qas", list, where)):
                place = f"{where}, question {index}"
                if not isinstance(question, dict):
                    raise DataError(f"{place}: expected a JSON object, found {type(question).__name__}")
                yield place, passage, question
