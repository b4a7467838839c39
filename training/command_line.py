"""Numbers of the command line that are checked as they are read; for argparse's `type`."""

import argparse
from collections.abc import Callable


def whole(least: int) -> Callable[[str], int]:
    """Return a reader of whole numbers of at least `least`."""

    def read(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is less than {least}")
        return value

    read.__name__ = "whole number"  # argparse says it when int() fails
    return read


def above_zero(text: str) -> float:
    """Read a number above 0."""
    if (value := float(text)) > 0:
        return value
    raise argparse.ArgumentTypeError(f"{text} is not above 0")


def zero_or_more(text: str) -> float:
    """Read a number of at least 0."""
    if (value := float(text)) >= 0:
        return value
    raise argparse.ArgumentTypeError(f"{text} is less than 0")


def share(text: str) -> float:
    """Read a number from 0 to 1."""
    if 0 <= (value := float(text)) <= 1:
        return value
    raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
