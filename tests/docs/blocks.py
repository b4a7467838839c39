"""The shell blocks of the documents, and the commands in them."""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
MARKS: Final = {
    "cluster": "a Kubernetes cluster or a container engine",
    "gpu": "a GPU",
    "hub": "a model hub or another site",
    "root": "rights over the machine",
    "long": "many minutes",
}
"""What a block may need that tests have not, said on the line before it: `<!-- needs: cluster -->`."""

_SHELLS: Final = frozenset({"sh", "bash", "shell", "console", "zsh"})
_FENCE: Final = re.compile(r"^(?P<indent>\s*)(?P<fence>`{3,}|~{3,})\s*(?P<language>[\w+-]*)")
_MARK: Final = re.compile(r"^\s*<!--\s*needs:\s*(?P<mark>.*?)\s*-->\s*$")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block in a shell's language; `line` is its fence's, from 1."""

    path: str
    line: int
    text: str
    mark: str | None

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


def documents() -> list[Path]:
    """Return the documents whose commands are tried, those that there are."""
    fixed = [ROOT / "README.md", ROOT / "SECURITY.md"]
    return [path for path in fixed if path.is_file()] + sorted(
        [*(ROOT / "docs").glob("*.md"), *(ROOT / "deploy").glob("**/*.md")]
    )


def shell_blocks() -> list[Block]:
    """Return the shell blocks of all documents, in order."""
    return [
        block
        for path in documents()
        for block in read_blocks(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8"))
    ]


def read_blocks(path: str, text: str) -> Iterator[Block]:
    """Yield the shell blocks of one document. Raises ValueError when a fence is left open."""
    lines = text.splitlines()
    number = 0
    before = ""
    while number < len(lines):
        opening = _FENCE.match(lines[number])
        if not opening:
            before = lines[number] if lines[number].strip() else before
            number += 1
            continue
        start, indent = number, len(opening["indent"])
        number += 1
        held = []
        while number < len(lines) and lines[number].strip() != opening["fence"]:
            held.append(lines[number][indent:] if not lines[number][:indent].strip() else lines[number])
            number += 1
        if number == len(lines):
            raise ValueError(f"{path}:{start + 1}: this block is never closed")
        if opening["language"] in _SHELLS:
            mark = _MARK.match(before)
            yield Block(path, start + 1, "\n".join(held), mark["mark"] if mark else None)
        before = ""
        number += 1


def commands(text: str) -> list[str]:
    """Return the commands of a block, each as it stands there, comments left out. Raises ValueError."""
    found: list[str] = []
    begun = ""
    for line in text.splitlines():
        if not begun and (not line.strip() or line.lstrip().startswith("#")):
            continue
        begun = f"{begun}\n{line}" if begun else line
        if not line.endswith("\\") and complete(begun):
            found.append(begun)
            begun = ""
    if begun:
        raise ValueError(f"bash does not understand: {begun}")
    return found


@cache
def complete(command: str) -> bool:
    """Return whether bash takes `command` for whole: quotes closed, loops ended."""
    # A here-document that is not ended is a warning alone, and a complete command in bash's eyes.
    done = subprocess.run(["bash", "-n", "-c", command], capture_output=True, check=False)  # noqa: S607
    return not done.returncode and not done.stderr


def one_line(command: str) -> str:
    """Return `command` without line breaks and comments, as tables of commands spell it."""
    return " ".join(uncommented(command).split())


def uncommented(command: str) -> str:
    """Return `command` without the comments behind its lines, continued lines joined."""
    lines = command.replace("\\\n", " ").split("\n")
    return "\n".join(re.sub(r"\s#\s.*", "", line) for line in lines)
