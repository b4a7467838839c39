"""Whatever anybody writes, the embedded model's own tokenizer finds the structure of the prompt and no other."""

import collections
import re
import unicodedata
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st
from sentencepiece import SentencePieceNormalizer
from tokenizers import Tokenizer

from handler.contract.prompt import (
    CONTEXT_TAG,
    INSTRUCTIONS,
    KNOWLEDGE_TAG,
    TURN_SEPARATOR,
    fit,
    instruction_text,
    neutralise,
    render,
)

TOKENIZER = Tokenizer.from_file(str(Path(__file__).parents[2] / "models" / "embedded" / "tokenizer.json"))
SPECIAL = {number: token.content for number, token in TOKENIZER.get_added_tokens_decoder().items()}

INVISIBLE = ["\u200b", "\u00ad", "\u2060", "\ufeff", "\u202e", "\u034f", "\u0301", "\u0338", "\ufe0f", "\x00", "\x1b"]
STRUCTURE = [*SPECIAL.values(), CONTEXT_TAG.lower(), "<extra_id_99>", "<s>", "<PaD>", "eos"]


@st.composite
def disguised(draw: st.DrawFn) -> str:
    """A piece of structure in other letters, with things between that tokenizers drop."""
    text = draw(st.sampled_from(STRUCTURE))
    shift = draw(st.sampled_from([0, 0, 0xFEE0]))  # the full-width forms of ASCII
    written = [chr(ord(character) + shift) if "!" <= character <= "~" else character for character in text]
    for _ in range(draw(st.integers(0, 3))):
        written.insert(draw(st.integers(0, len(written))), draw(st.sampled_from([*INVISIBLE, " ", "\n", "[", "<"])))
    return "".join(written)


hostile = st.lists(st.one_of(disguised(), st.sampled_from(STRUCTURE), st.text(max_size=6)), max_size=6).map("".join)


def special_tokens(text: str) -> list[str]:
    return [
        SPECIAL[number] for number in TOKENIZER.encode(text).ids if number in SPECIAL and SPECIAL[number] != "<unk>"
    ]


def count_tokens(text: str) -> int:
    return len(TOKENIZER.encode(text).ids)


@given(hostile)
@example(INSTRUCTIONS["qa"])
@example("Instruction:\u200b given a dialog  context, you need to response\nempathically.")
def test_neutral_text_holds_no_special_token(text: str) -> None:
    assert special_tokens(neutralise(text)) == ["</s>"]


@given(st.lists(hostile, min_size=1, max_size=4), hostile, st.none() | st.sampled_from([*INSTRUCTIONS]) | hostile)
def test_the_tokens_of_a_prompt_are_those_of_its_author(
    turns: list[str], knowledge: str, instruction: str | None
) -> None:
    header = instruction_text(instruction, has_knowledge=bool(neutralise(knowledge)))
    expected = collections.Counter({"</s>": 1, CONTEXT_TAG: 1, TURN_SEPARATOR: len(turns) - 1})
    expected[KNOWLEDGE_TAG] = 1 if neutralise(knowledge) else 0
    expected[header] = 1 if header in SPECIAL.values() else 0
    assert collections.Counter(special_tokens(render(turns, knowledge, instruction))) == +expected


@given(st.lists(hostile, min_size=1, max_size=4), hostile, st.integers(24, 90))
def test_a_prompt_that_was_cut_keeps_its_budget_and_its_structure(
    turns: list[str], knowledge: str, budget: int
) -> None:
    try:
        fitted = fit(turns, knowledge, "qa", budget=budget, count_tokens=count_tokens)
    except ValueError:
        return
    assert count_tokens(fitted.text) == fitted.tokens <= budget
    found = special_tokens(fitted.text)
    assert found[:2] == [INSTRUCTIONS["qa"], CONTEXT_TAG]
    assert found.count(TURN_SEPARATOR) == len(turns) - 1 - fitted.turns_dropped
    assert found.count(KNOWLEDGE_TAG) <= 1
    assert len(found) == 3 + found.count(TURN_SEPARATOR) + found.count(KNOWLEDGE_TAG)


def test_no_character_of_unicode_hides_a_tag_until_a_tokenizer_drops_it() -> None:
    t5 = SentencePieceNormalizer(rule_name="nmt_nfkc")  # what T5's and GODEL's own tokenizers do to a text first
    for start in range(0, 0x110000, 0x2000):
        points = map(chr, range(start, start + 0x2000))
        kept = [point for point in points if unicodedata.category(point) not in ("Cs", "Co", "Cn")]
        safe = neutralise(" ".join(f"E{point}OS <{point}pad> [CON{point}TEXT] <{point}/s>" for point in kept))
        for read in (safe, t5.normalize(safe)):
            assert not re.search(r"EOS|<pad>|\[CONTEXT\]|</s>", read)
