"""A page of questions and answers to read: one HTML file that needs nothing else."""

import re
from collections.abc import Sequence
from html import escape
from typing import Final

from training.data import Record
from training.metrics import holds_answer

_STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 48rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
article { border-top: 1px solid #ccc; padding: 1rem 0 }
dt { color: #666; font-size: .85rem; margin-top: .6rem } dd { margin: 0; overflow-wrap: anywhere }
mark { background: #ffe28a } .knowledge { white-space: pre-line; color: #444 }
.hit, .miss { font-weight: 600 } .hit { color: #146c2e } .miss { color: #a4161a }
"""
_VERDICTS: Final = {True: ("hit", "hit"), False: ("miss", "miss"), None: ("", "no gold answer to look for")}


def samples_page(records: Sequence[Record], answers: Sequence[str], title: str) -> str:
    """Return the page: each record's turns, its knowledge with the gold answer marked, reference and answer."""
    articles = "\n".join(
        _article(number, record, answer)
        for number, (record, answer) in enumerate(zip(records, answers, strict=True), start=1)
    )
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n{articles}\n</body>\n</html>\n"
    )


def marked(text: str, answer: str | None) -> str:
    """Return `text` as HTML, `answer` marked wherever it stands as words of its own, in any case."""
    if not answer or not answer.strip():
        return escape(text)
    # Splitting at a group puts what matched at the odd places.
    parts = re.split(rf"((?<!\w){re.escape(answer.strip())}(?!\w))", text, flags=re.IGNORECASE)
    return "".join(f"<mark>{escape(part)}</mark>" if place % 2 else escape(part) for place, part in enumerate(parts))


def _article(number: int, record: Record, answer: str) -> str:
    kind, verdict = _VERDICTS[holds_answer(answer, record.answer)]
    turns = "".join(f"<dd>{escape(turn)}</dd>" for turn in record.turns)
    return (
        f"<article>\n<h2>{number}</h2>\n<dl>\n<dt>Dialogue</dt>{turns}\n"
        f'<dt>Knowledge</dt><dd class="knowledge">{marked(record.knowledge, record.answer) or "none"}</dd>\n'
        f"<dt>Reference</dt><dd>{marked(record.response, record.answer)}</dd>\n"
        f"<dt>Model</dt><dd>{marked(answer, record.answer) or 'nothing'}</dd>\n"
        f'<dt>Gold answer</dt><dd>{escape(record.answer or "")} <span class="{kind}">{verdict}</span></dd>\n'
        "</dl>\n</article>"
    )
