"""Plain text for pre-training: documents from a file, sentences from a paragraph."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

# A full stop, question or exclamation mark, what closes a quotation, then white space before an opening word.
_SENTENCE_END: Final = re.compile(r"(?<=[.!?])[\"')\]]?\s+(?=[\"'(\[]?[A-Z0-9])")
_ABBREVIATION: Final = re.compile(r"(?:\b(?:Mr|Mrs|Ms|Dr|St|Jr|Sr|vs|etc|no|No|cf|ca|c|e\.g|i\.e|U\.S)|\b[A-Z])\.$")


class TextError(ValueError):
    """A text file cannot be read; the message names it and says why."""


def read_documents(path: Path) -> Iterator[str]:
    """Yield the documents of a UTF-8 text file, or of one compressed as `.zst`: what stands between blank lines.

    Raises TextError when the file is missing, not UTF-8, or the `zstd` program fails on it.
    """
    if not path.is_file():
        raise TextError(f"{path} is no file")
    text = _decompress(path) if path.suffix == ".zst" else path.read_bytes()
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TextError(f"{path} is not UTF-8: {error}") from error
    for document in re.split(r"\n\s*\n", decoded):
        if document.strip():
            yield document.strip()


def sentences(paragraph: str) -> list[str]:
    """Return the sentences of `paragraph` by rule: good enough to train on, wrong now and then."""
    found: list[str] = []
    start = 0
    for match in _SENTENCE_END.finditer(paragraph):
        end = match.start() + len(match.group().rstrip())
        if _ABBREVIATION.search(paragraph[start:end]):
            continue
        found.append(paragraph[start:end].strip())
        start = match.end()
    found.append(paragraph[start:].strip())
    return [sentence for sentence in found if sentence]


def _decompress(path: Path) -> bytes:
    try:
        done = subprocess.run(["zstd", "-dc", "--long=27", str(path)], capture_output=True, check=False)  # noqa: S607
    except FileNotFoundError as error:
        raise TextError(f"{path} needs the zstd program, which is not installed") from error
    if done.returncode:
        raise TextError(f"{path} cannot be decompressed: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
