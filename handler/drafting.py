"""Guesses at what comes next in an answer: the words that followed the same words in its prompt.

Answers grounded in a passage copy much of it, so the guess is often right, and several tokens are then checked in one
pass of the model (prompt lookup: Saxena 2023; speculative decoding: Leviathan et al. 2023). A guess decides
nothing: each token is drawn as ever, and the guess is kept as far as it agrees.
"""

from collections.abc import Sequence
from typing import Final

_LENGTHS: Final = (3, 2)
"""Lengths of the run of tokens looked for, longest first. One token is too weak a sign: measured, half as many
guesses again for a twentieth more that are right."""


class PromptLookup:
    """The runs of one prompt. A run that occurs more than once stands for its last place."""

    def __init__(self, prompt_ids: Sequence[int]) -> None:
        self._prompt = prompt_ids
        self._ends: Final = {
            length: {tuple(prompt_ids[end - length : end]): end for end in range(length, len(prompt_ids))}
            for length in _LENGTHS
        }

    def draft(self, history: Sequence[int], count: int) -> list[int]:
        """Return up to `count` tokens that may follow `history`; none where its end is not in the prompt."""
        for length, ends in self._ends.items():
            end = ends.get(tuple(history[-length:]))
            if end is not None:
                return list(self._prompt[end : end + count])
        return []
