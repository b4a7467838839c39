"""How `godel` speaks to a terminal, and how a command of it is declared."""

import argparse
import re
from collections.abc import Sequence
from typing import Any, Final

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""What could make a terminal do things; texts of bots are not to be trusted with it."""


def add_command(group: Any, name: str, run: Any, meaning: str) -> argparse.ArgumentParser:
    """Add a command to a group of a parser's; `run` gets the client and the parsed arguments."""
    parser: argparse.ArgumentParser = group.add_parser(name, help=meaning, description=meaning)
    parser.set_defaults(run=run)
    return parser


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows under a head, in columns."""
    lines = [head, *([harmless(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def harmless(text: str) -> str:
    """Return `text` without what could make a terminal do things."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
