"""Ending an answer before the first of some texts, also when it comes in parts."""

from collections.abc import Sequence


class StopSequences:
    """Looks for `sequences` in one answer. The one that is complete first counts, of several the one that began first.

    Neither it nor what follows is given out; what could be its beginning is held back until that is known.
    """

    def __init__(self, sequences: Sequence[str]) -> None:
        self._sequences = sequences
        self._held = ""
        self.found = False

    def pass_on(self, part: str) -> str:
        """Take the next part of the answer; return what of it may be given out now."""
        if self.found:
            return ""
        text, self._held = self._held + part, ""
        matches = [(start + len(end), start) for end in self._sequences if (start := text.find(end)) >= 0]
        if matches:
            self.found = True
            return text[: min(matches)[1]]
        keep = max((_overlap(text, end) for end in self._sequences), default=0)
        passed, self._held = text[: len(text) - keep], text[len(text) - keep :]
        return passed

    def rest(self) -> str:
        """Return what was held back, when the answer has ended."""
        rest, self._held = self._held, ""
        return rest


def _overlap(text: str, sequence: str) -> int:
    """Return the length of the longest end of `text` that `sequence` begins with."""
    longest = min(len(text), len(sequence) - 1)
    return next((length for length in range(longest, 0, -1) if text.endswith(sequence[:length])), 0)
