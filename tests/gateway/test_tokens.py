"""Whatever way is taken, a count is what the model's own tokenizer makes of the whole text."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from gateway.errors import Misconfigured
from gateway.tokens import CountTokens, WholeCounter, WordCounter, token_counter

ROOT = Path(__file__).parents[2]

WORDS = ["▁the", "▁a", "th", "er", "▁", "a", "b", "t", "h", "e", "1", "2", ".", ",", "▁b", "ab", "ba", "12"]


def t5(*, scheme: str = "always", split: bool = True, normalized: bool = False) -> Tokenizer:
    """A tokenizer such as transformers makes of T5's: unigrams, spaces as ▁, an end token, added marks."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -10.0), *((word, -float(len(word))) for word in WORDS)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens(["</s>", AddedToken("<eats>", lstrip=True, rstrip=True, normalized=False)])
    tokenizer.add_tokens([AddedToken("[MARK]", normalized=normalized)])
    return tokenizer


def embedded() -> Tokenizer:
    return Tokenizer.from_file(str(ROOT / "models/embedded/tokenizer.json"))


BY_WORDS = {
    name: (tokenizer, token_counter(tokenizer.to_str())) for name, tokenizer in (("embedded", embedded()), ("t5", t5()))
}

TEXTS = st.lists(
    st.sampled_from(
        [
            *"ab1.,(\u2019é¨ͺß½ﷺ\u0308\uff9e\u3000\t\n\x00\x1c\x85\u200b▁",
            *(" ", " ", "  ", "the ", " other", "日本"),
            *("</s>", "<eats>", "[MARK]", "EOS", "[KNOWLEDGE]", "<extra_id_3>"),
        ]
    ),
    max_size=12,
).map("".join)


@pytest.mark.parametrize(("tokenizer", "count"), BY_WORDS.values(), ids=BY_WORDS)
@given(text=TEXTS | st.text(max_size=40))
def test_a_count_by_words_is_that_of_the_whole(tokenizer: Tokenizer, count: CountTokens, text: str) -> None:
    assert isinstance(count, WordCounter)
    assert count(text) == len(tokenizer.encode(text))


@pytest.mark.parametrize(
    "make",
    [
        lambda: t5(split=False),
        lambda: t5(scheme="first"),
        lambda: t5(normalized=True),
        lambda: Tokenizer(models.Unigram([("<unk>", 0.0)], unk_id=0)),
    ],
    ids=["tokens-across-spaces", "marks-change-what-follows", "marks-found-late", "no-words"],
)
def test_a_tokenizer_whose_words_are_not_apart_counts_the_whole(make: Callable[[], Tokenizer]) -> None:
    assert isinstance(token_counter(make().to_str()), WholeCounter)


def test_a_text_without_spaces_is_counted_and_not_kept() -> None:
    tokenizer = embedded()
    count = WordCounter(tokenizer)
    text = "日本" * 5000
    assert count(text) == len(tokenizer.encode(text))
    assert count.kept == 0


def test_tokens_are_counted_untruncated_and_with_the_end_token(tokenizer_file: Path) -> None:
    count = token_counter(tokenizer_file.read_text())
    assert count("one two three four five") == 6


def test_what_is_no_tokenizer_is_a_misconfiguration() -> None:
    with pytest.raises(Misconfigured, match="tokenizer"):
        token_counter("{}")
