"""How good answers are: normalisation as SQuAD's evaluation does it, answer hit, token F1, ROUGE-L."""

import re
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Final

from rouge_score.rouge_scorer import RougeScorer

from training.text import sentences

_ARTICLES: Final = re.compile(r"\b(a|an|the)\b")
_NO_WORD: Final = re.compile(r"[^\w\s]|_")


def normalise(text: str) -> str:
    """Return `text` in lower case, punctuation as spaces, without articles."""
    return " ".join(_ARTICLES.sub(" ", _NO_WORD.sub(" ", text.lower())).split())


def score(answers: Sequence[str], responses: Sequence[str], golds: Sequence[str | None]) -> dict[str, float]:
    """Return the mean metrics of `answers` against reference `responses` and, where known, gold short `golds`.

    `answer_hit` is the share of answers that hold the normalised gold answer, over the records that have one
    (NaN where none has). F1 counts shared words, ROUGE-L the longest common subsequence.
    """
    scorer = RougeScorer(["rougeL"])
    rouge = [
        scorer.score(normalise(response), normalise(answer))["rougeL"].fmeasure
        for answer, response in zip(answers, responses, strict=True)
    ]
    hits = [
        f" {normalise(gold)} " in f" {normalise(answer)} "
        for answer, gold in zip(answers, golds, strict=True)
        if gold and normalise(gold)
    ]
    return {
        "answer_hit": statistics.mean(hits) if hits else float("nan"),
        "f1": statistics.mean(_f1(answer, response) for answer, response in zip(answers, responses, strict=True)),
        "rougeL": statistics.mean(rouge),
        "words_per_reply": statistics.mean(len(answer.split()) for answer in answers),
    }


def first_sentence(knowledge: str, _question: str) -> str:
    """The baseline that copies the passage's first sentence."""
    return (sentences(knowledge) or [""])[0]


def best_overlap(knowledge: str, question: str) -> str:
    """The baseline that copies the sentence sharing most different words with the question, the first of equals."""
    wanted = set(normalise(question).split())
    return max(sentences(knowledge) or [""], key=lambda sentence: len(wanted & set(normalise(sentence).split())))


def _f1(answer: str, response: str) -> float:
    written, wanted = Counter(normalise(answer).split()), Counter(normalise(response).split())
    shared = sum((written & wanted).values())
    return 2 * shared / (sum(written.values()) + sum(wanted.values())) if shared else 0.0
