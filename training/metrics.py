"""How good answers are: normalised as SQuAD's evaluation does it, then answer hit, token F1, ROUGE, BLEU and more.

Every metric is over `normalise`d text: BLEU by sacrebleu, ROUGE by rouge-score, the rest as said at `score`.
"""

import re
import statistics
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU

from training.text import sentences

_ARTICLES: Final = re.compile(r"\b(a|an|the)\b")
_NO_WORD: Final = re.compile(r"[^\w\s]|_")
_ROUGE: Final = ("rouge1", "rouge2", "rougeL")


class _AtSpaces:
    """Splits normalised text for rouge-score, whose own tokenizer drops all letters but a to z."""

    def tokenize(self, text: str) -> list[str]:
        return text.split()


def normalise(text: str) -> str:
    """Return `text` in lower case, punctuation as spaces, without articles."""
    return " ".join(_ARTICLES.sub(" ", _NO_WORD.sub(" ", text.lower())).split())


def score(
    answers: Sequence[str],
    responses: Sequence[str],
    golds: Sequence[str | None],
    knowledge: Sequence[str] | None = None,
) -> dict[str, float]:
    """Return the metrics of `answers` against reference `responses` and, where known, gold short `golds`.

    From 0 to 1, means over the answers unless said otherwise:
    `answer_hit` is the share of answers that hold the gold answer, over the records that have one. `f1` counts
    shared words; `rouge1`, `rouge2` and `rougeL` are F-measures, words, of any script, not stemmed.
    `bleu` is BLEU-4 over the whole corpus, from 0 to 100, split at spaces, with sacrebleu's smoothing.
    `distinct2` is the number of different pairs of neighbouring words in all answers over that of all such pairs.
    `knowledge_overlap`, given where `knowledge` is, is the share of an answer's words (each as often as it stands
    there; 0 for an answer of none) that its record's knowledge has, over the records with knowledge.
    `words_per_reply` counts what white space parts, before normalising. What nothing counts towards is NaN.
    """
    written, wanted = [normalise(answer) for answer in answers], [normalise(response) for response in responses]
    scorer = RougeScorer(list(_ROUGE), tokenizer=_AtSpaces())
    rouge = [scorer.score(response, answer) for answer, response in zip(written, wanted, strict=True)]
    hits = [hit for answer, gold in zip(answers, golds, strict=True) if (hit := holds_answer(answer, gold)) is not None]
    # force: sacrebleu would warn that text without punctuation looks tokenized already, which it is.
    bleu = BLEU(tokenize="none", force=True)
    measured = {
        "answer_hit": _mean(hits),
        "f1": _mean([_f1(answer, response) for answer, response in zip(written, wanted, strict=True)]),
        **{name: _mean([each[name].fmeasure for each in rouge]) for name in _ROUGE},
        "bleu": bleu.corpus_score(written, [wanted]).score if written else float("nan"),
        "distinct2": _distinct2(written),
    }
    if knowledge is not None:
        measured["knowledge_overlap"] = _knowledge_overlap(written, knowledge)
    return measured | {"words_per_reply": _mean([len(answer.split()) for answer in answers])}


def holds_answer(answer: str, gold: str | None) -> bool | None:
    """Return whether `answer` holds the words of `gold` in a row, or None where there is no gold answer."""
    wanted = normalise(gold or "")
    return f" {wanted} " in f" {normalise(answer)} " if wanted else None


def first_sentence(knowledge: str, _question: str) -> str:
    """The baseline that copies the passage's first sentence."""
    return (sentences(knowledge) or [""])[0]


def best_overlap(knowledge: str, question: str) -> str:
    """The baseline that copies the sentence sharing most different words with the question, the first of equals."""
    wanted = set(normalise(question).split())
    return max(sentences(knowledge) or [""], key=lambda sentence: len(wanted & set(normalise(sentence).split())))


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else float("nan")


def _f1(answer: str, response: str) -> float:
    written, wanted = Counter(answer.split()), Counter(response.split())
    shared = sum((written & wanted).values())
    return 2 * shared / (sum(written.values()) + sum(wanted.values())) if shared else 0.0


def _distinct2(answers: Sequence[str]) -> float:
    pairs = [pair for answer in answers for pair in pairwise(answer.split())]
    return len(set(pairs)) / len(pairs) if pairs else float("nan")


def _knowledge_overlap(answers: Sequence[str], knowledge: Sequence[str]) -> float:
    shares = []
    for answer, passage in zip(answers, knowledge, strict=True):
        words = answer.split()
        if known := set(normalise(passage).split()):
            shares.append(sum(word in known for word in words) / len(words) if words else 0.0)
    return _mean(shares)
