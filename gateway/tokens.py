"""Counting tokens as the served model does; the only file of the gateway that knows `tokenizers`."""

import functools
import itertools
import re
import string
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from gateway.errors import Misconfigured

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CountTokens = Callable[[str], int]

WORDS_KEPT: Final = 65_536
LONGEST_WORD: Final = 64
"""Characters. The tokens of shorter words are counted once: some 10 MB at most."""

PARTS_KEPT: Final = 2048
LONGEST_PART: Final = 2000
"""Characters. What stands between two marks, a turn or the knowledge, comes again with the next message: 4 MB of Latin
letters at most, 16 MB of any, are remembered whole."""

_GRAPHIC: Final = string.digits + string.ascii_letters + string.punctuation
# No normalisation drops such characters, turns them into spaces or joins them with one: between two of them a space is
# the end of a word.
_SEAM: Final = re.compile(r"(?<=[!-~]) (?=[!-~])")
_WORD: Final = re.compile(r"[!-~](?:[^ ]*[!-~])?")
_SPACES: Final = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
"""What `tokenizers` takes for spaces: Unicode's White_Space."""


def token_counter(tokenizer: str) -> CountTokens:
    """Return a function that counts the tokens of a text, the end token included.

    `tokenizer` is the text of a `tokenizer.json`. Raises Misconfigured when it is none.
    The function may be called from several threads at once.
    """
    from tokenizers import Tokenizer

    try:
        loaded = Tokenizer.from_str(tokenizer)
    except Exception as error:  # the library raises plain Exception
        raise Misconfigured(f"tokenizer: cannot be read: {error}") from error
    # A file may carry padding or truncation left from training; either would falsify the count.
    loaded.no_padding()
    loaded.no_truncation()
    return WordCounter(loaded) if WordCounter.fits(loaded) else WholeCounter(loaded)


class WholeCounter:
    """Counts the tokens of a text as the tokenizer makes them."""

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self._tokenizer = tokenizer

    def __call__(self, text: str) -> int:
        """Return how many tokens `text` has, those around it included."""
        # `encode_batch_fast` counts as `encode` does, but lets other threads run meanwhile.
        return len(self._tokenizer.encode_batch_fast([text])[0])


class WordCounter:
    """The same number in a tenth of the time: the sum over the words, which come again and again.

    It holds for a tokenizer that `fits`: no token reaches across a space, or beyond one that was added to the
    vocabulary, such as the marks of a prompt.
    """

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self._around = tokenizer.num_special_tokens_to_add(is_pair=False)
        added = tokenizer.get_added_tokens_decoder().values()
        self._eats_before = {each.content for each in added if each.lstrip}
        self._eats_after = {each.content for each in added if each.rstrip}
        self._marks = re.compile(f"({_either(each.content for each in added)})")
        self._words = _Words(tokenizer)
        self._kept_part = functools.lru_cache(PARTS_KEPT)(self._part)

    @property
    def kept(self) -> int:
        """How many words are remembered."""
        return len(self._words)

    @staticmethod
    def fits(tokenizer: "Tokenizer") -> bool:
        """Return whether the tokens of a text are those of its words."""
        added = tokenizer.get_added_tokens_decoder().values()
        if tokenizer.pre_tokenizer is None or any(
            each.normalized or each.single_word or each.content.strip() != each.content for each in added
        ):
            return False
        for mark in (each.content for each in added):
            if _tokens(tokenizer, f"a{mark}b") != [*_tokens(tokenizer, "a"), mark, *_tokens(tokenizer, "b")]:
                return False
        pairs = " ".join(f"{left} {right}" for left, right in itertools.product(_GRAPHIC, repeat=2))
        alone = {word: _pieces(tokenizer, word) for word in _GRAPHIC}
        return _pieces(tokenizer, f" {pairs}") == [piece for word in pairs.split() for piece in alone[word]]

    def __call__(self, text: str) -> int:
        """Return how many tokens `text` has, those around it included."""
        parts = self._marks.split(text)  # what lies before, between and after the marks, and the marks
        count = self._around + len(parts) // 2
        for place in range(0, len(parts), 2):
            part = parts[place]
            if place and parts[place - 1] in self._eats_after:
                part = part.lstrip(_SPACES)
            if place + 1 < len(parts) and parts[place + 1] in self._eats_before:
                part = part.rstrip(_SPACES)
            if part:
                count += self._kept_part(part) if len(part) <= LONGEST_PART else self._part(part)
        return count

    def _part(self, part: str) -> int:
        try:
            return sum(map(self._words.__getitem__, part.removeprefix(" ").split(" ")))
        except _NoWordError:
            return sum(map(self._words.count, _SEAM.split(part)))


class _Words(dict[str, int]):
    """The tokens of words, counted when they are first asked for."""

    def __init__(self, tokenizer: "Tokenizer") -> None:
        super().__init__()
        self._tokenizer = tokenizer

    def __missing__(self, word: str) -> int:
        if not _WORD.fullmatch(word):
            raise _NoWordError
        count = self.count(word)
        if len(word) <= LONGEST_WORD:
            if len(self) >= WORDS_KEPT:
                self.clear()
            self[word] = count
        return count

    def count(self, text: str) -> int:
        """Return the tokens of a text by itself, without those around it."""
        return len(self._tokenizer.encode_batch_fast([text], add_special_tokens=False)[0])


class _NoWordError(Exception):
    """The spaces around a piece may not be where words end."""


def _either(texts: Iterable[str]) -> str:
    """Return a pattern for one of `texts`, the longest where several match; for nothing when there are none."""
    return "|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or "(?!)"


def _tokens(tokenizer: "Tokenizer", text: str) -> list[str]:
    return list(tokenizer.encode(text, add_special_tokens=False).tokens)


def _pieces(tokenizer: "Tokenizer", text: str) -> list[str]:
    normal = text if tokenizer.normalizer is None else tokenizer.normalizer.normalize_str(text)
    return [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal)]
