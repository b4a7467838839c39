"""Metrics against values worked out by hand, and what must hold of them for any text."""

import math
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.metrics import best_overlap, first_sentence, holds_answer, normalise, score

TEXT = "The sea is blue and deep. The old harbour lies in the north of the town. Ships come in every morning."
words = st.lists(st.text(string.ascii_lowercase, min_size=4, max_size=6), min_size=4, max_size=12).map(" ".join)


def test_metrics_know_a_right_answer_from_a_wrong_one() -> None:
    right = score(["It has the Eleven players."], ["Each team has eleven players."], ["eleven"])
    wrong = score(["It is blue."], ["Each team has eleven players."], ["eleven"])
    assert (right["answer_hit"], wrong["answer_hit"]) == (1.0, 0.0)
    assert all(right[name] > wrong[name] for name in ("f1", "rouge1", "rouge2", "rougeL"))


@pytest.mark.parametrize(
    ("answer", "gold", "hit"),
    [
        ("At the NINE, sharp!", "a nine", True),
        ("elevenths", "eleven", False),
        ("New old York", "New York", False),
        ("anything", None, None),
        ("anything", "The.", None),
    ],
)
def test_an_answer_hits_when_it_holds_the_words_of_the_gold_one_in_a_row(
    answer: str, gold: str | None, hit: bool | None
) -> None:
    assert holds_answer(answer, gold) is hit


def test_metrics_are_those_worked_out_by_hand() -> None:
    # Normalised: "red fox runs fast" against "red fox sat": 2 words shared, of 4 and 3; 1 pair, of 3 and 2.
    found = score(["The red fox runs fast."], ["A red fox sat."], [None], ["Foxes are red; a fox runs."])
    assert found["f1"] == pytest.approx(2 * 2 / 7)
    assert found["rouge1"] == pytest.approx(2 * 2 / 7)
    assert found["rouge2"] == pytest.approx(2 * 1 / 5)
    assert found["rougeL"] == pytest.approx(2 * 2 / 7)
    assert found["knowledge_overlap"] == pytest.approx(3 / 4)  # "fast" is not there
    assert found["words_per_reply"] == 5
    assert math.isnan(found["answer_hit"])


def test_words_of_any_script_count_for_rouge() -> None:
    found = score(["Привет, мир!", "Das Café öffnet"], ["привет море", "das Café öffnet"], [None] * 2)
    assert found["rouge1"] == pytest.approx((1 / 2 + 1) / 2)
    assert found["rouge2"] == pytest.approx((0 + 1) / 2)
    assert found["rougeL"] == pytest.approx((1 / 2 + 1) / 2)


def test_bleu_is_the_geometric_mean_of_four_precisions_over_the_corpus() -> None:
    # 9 words, the last of the first answer wrong: 8/9, 6/7, 4/5 and 2/3 of the n-grams are right.
    answers = ["one two three four nine", "six seven eight ten"]
    found = score(answers, ["one two three four five", "six seven eight ten"], [None] * 2)
    assert found["bleu"] == pytest.approx(100 * (8 / 9 * 6 / 7 * 4 / 5 * 2 / 3) ** 0.25)


def test_distinct2_counts_pairs_within_replies_and_over_all_of_them() -> None:
    # Pairs: red fox, fox ran | red fox, fox sat: 3 different of 4; none reaches from one reply into the next.
    assert score(["The red fox ran.", "Red fox sat"], ["x", "x"], [None] * 2)["distinct2"] == pytest.approx(3 / 4)
    assert math.isnan(score(["one"], ["x"], [None])["distinct2"])


def test_knowledge_overlap_leaves_out_records_without_knowledge_and_counts_empty_answers() -> None:
    found = score(["blue sea", "blue", ""], ["x"] * 3, [None] * 3, ["The sea.", "", "The sea."])
    assert found["knowledge_overlap"] == pytest.approx((1 / 2 + 0) / 2)
    assert math.isnan(score(["blue"], ["x"], [None], [" . "])["knowledge_overlap"])
    assert "knowledge_overlap" not in score(["blue"], ["x"], [None])


@given(st.lists(words, min_size=1, max_size=5))
def test_an_answer_that_is_its_reference_has_full_marks(texts: list[str]) -> None:
    found = score([f"{text.title()}!" for text in texts], texts, list(texts), texts)
    assert found["bleu"] == pytest.approx(100)
    for name in ("answer_hit", "f1", "rouge1", "rouge2", "rougeL", "knowledge_overlap"):
        assert found[name] == pytest.approx(1), name


@given(st.lists(st.tuples(st.text(), st.text(), st.text()), min_size=1, max_size=4))
def test_metrics_of_any_text_stay_within_their_bounds(rows: list[tuple[str, str, str]]) -> None:
    answers, responses, knowledge = (list(column) for column in zip(*rows, strict=True))
    for name, value in score(answers, responses, list(knowledge), knowledge).items():
        if name != "words_per_reply":
            assert math.isnan(value) or 0 <= value <= (100.0001 if name == "bleu" else 1), name


def test_baselines_copy_the_first_and_the_most_alike_sentence() -> None:
    assert first_sentence(TEXT, "Where does the harbour lie?") == "The sea is blue and deep."
    assert best_overlap(TEXT, "Where does the harbour lie?").startswith("The old harbour")


@given(st.text(string.printable))
def test_normalising_twice_is_normalising_once(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)
