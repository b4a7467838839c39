"""Finding the passages of long knowledge that a question asks for, by BM25.

Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009. Computed by SQLite's full-text
index (FTS5, with Porter's stemmer), which every Python brings along.
"""

import functools
import re
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

from gateway.passages import PASSAGE_CHARACTERS, Span, split

EARLIER_WEIGHT: Final = 0.3
"""What a word of an earlier turn counts beside one of the question: "and how long is it?" needs it."""

EARLIER_TURNS: Final = 2

MAX_QUERY_WORDS: Final = 256
"""Of a question; what a longer one asks is anyone's guess."""

INDEXED_CHARACTERS: Final = 20_000_000
"""Text whose indexes are kept, the least recently used go first: some 60 MB beside the text itself."""

KEPT_INDEXES: Final = 500
"""The most that are kept: each takes some 80 kB however short its text."""

KEPT_QUERIES: Final = 32
KEPT_SCORES: Final = 1024
LEAST_KEPT_QUERIES: Final = 2
LONGEST_KEPT_QUERY: Final = 500
"""What is kept of earlier searches with an index: so many queries of up to so many characters while they have no more
scores, some 100 kB at most."""

# Words; of scripts that set no spaces each character.
_WORD = re.compile(r"[぀-ヿ㐀-鿿가-힯]|[^\W_぀-ヿ㐀-鿿가-힯]+")


@dataclass(frozen=True, slots=True)
class Found:
    """A passage and how well it matches."""

    span: Span
    score: float | None
    """None where nothing was searched, because the whole text fits."""


class PassageIndex:
    """The passages of one text, for any thread."""

    def __init__(self, text: str, longest: int = PASSAGE_CHARACTERS) -> None:
        self.passages = split(text, longest)
        database = sqlite3.connect(":memory:", check_same_thread=False)
        # Without content: the text is the bot's, the index holds words and places alone.
        database.execute("CREATE VIRTUAL TABLE passages USING fts5(words, content='', tokenize='porter unicode61')")
        rows = ((place, " ".join(_words(text[span.start : span.end]))) for place, span in enumerate(self.passages))
        database.executemany("INSERT INTO passages (rowid, words) VALUES (?, ?)", rows)
        # What is asked in a session is an earlier turn of the questions after it. No method is kept, which would keep
        # this object itself.
        ask = functools.partial(_scores, database, threading.Lock())
        kept = min(KEPT_QUERIES, max(LEAST_KEPT_QUERIES, KEPT_SCORES // max(1, len(self.passages))))
        self._ask = functools.lru_cache(kept)(ask)

    def search(self, turns: Sequence[str], limit: int) -> Iterator[Found]:
        """Yield up to `limit` passages, the best for the last of `turns` first, equals in the order of the text.

        Without any match these are the first of the text.
        """
        scores = dict.fromkeys(range(min(limit, len(self.passages))), 0.0)
        for place, score in self._scores(turns[-1], limit):
            scores[place] = scores.get(place, 0.0) + score
        for turn in turns[:-1][-EARLIER_TURNS:]:
            for place, score in self._scores(turn, limit):
                scores[place] = scores.get(place, 0.0) + EARLIER_WEIGHT * score
        best = sorted(scores)
        best.sort(key=scores.__getitem__, reverse=True)  # equals stay as they are
        for place in best[:limit]:
            yield Found(self.passages[place], round(scores[place], 4))

    def _scores(self, text: str, limit: int) -> Sequence[tuple[int, float]]:
        words = dict.fromkeys(_words(text)[:MAX_QUERY_WORDS])
        if not words:
            return []
        query = '"' + '" OR "'.join(words) + '"'
        ask = self._ask if len(query) <= LONGEST_KEPT_QUERY else self._ask.__wrapped__
        return ask(query, limit)


class PassageIndexes:
    """Indexes by text, each made once however many ask at the same time. For any thread."""

    def __init__(self, characters: int = INDEXED_CHARACTERS, most: int = KEPT_INDEXES) -> None:
        self._characters, self._most = characters, most
        self._kept: OrderedDict[str, Future[PassageIndex]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, text: str) -> PassageIndex:
        """Return the index of `text`; what is made for a bot serves until its knowledge changes."""
        with self._lock:
            making = self._kept.get(text)
            mine = making is None
            if making is None:
                making = self._kept[text] = Future()
                self._shrink()
            else:
                self._kept.move_to_end(text)
        if mine:
            try:
                making.set_result(PassageIndex(text))
            except BaseException as error:
                making.set_exception(error)
                with self._lock:
                    self._kept.pop(text, None)
        return making.result()

    def _shrink(self) -> None:
        held = sum(map(len, self._kept))
        while len(self._kept) > 1 and (held > self._characters or len(self._kept) > self._most):
            text, _ = self._kept.popitem(last=False)
            held -= len(text)


def _words(text: str) -> list[str]:
    return _WORD.findall(text)


def _scores(database: sqlite3.Connection, lock: threading.Lock, query: str, limit: int) -> Sequence[tuple[int, float]]:
    # Not ORDER BY rank: for that FTS5 prepares another statement within, which takes as long as the search.
    ranked = "SELECT rowid, -rank AS score FROM passages WHERE passages MATCH ? ORDER BY score DESC, rowid LIMIT ?"
    with lock:
        return database.execute(ranked, (query, limit)).fetchall()
