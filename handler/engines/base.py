"""The engine port. An engine knows token ids; nothing of text, HTTP, bots or TorchServe.

An engine holds `slots` requests at once. `encode` reads a prompt into a free slot, `step` feeds one token
to each named slot and returns the logits of the next, `release` frees a slot; `extend` and `rewind` try several
tokens at once and take back those that were wrong. The promise that makes
batching safe: the logits of a slot depend on its own prompt and tokens alone, never on its neighbours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class EngineError(RuntimeError):
    """The engine cannot be built or is broken; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineDescription:
    """What an engine is and can hold; shown to operators as it is."""

    engine: str
    precision: str
    device: str
    device_note: str | None
    """Why `device` is not the one that was asked for; None when it is."""
    slots: int
    max_prompt_tokens: int
    max_new_tokens: int
    max_beams: int
    draft_tokens: int
    """How many tokens beyond the one that is due it pays to `extend` by; 0 where it does not."""
    vocabulary: int
    eos_token_id: int
    decoder_start_token_id: int


class Engine(Protocol):
    """A sequence-to-sequence model with `slots` places for requests. Not thread-safe: one thread loads and runs."""

    @property
    def description(self) -> EngineDescription:
        """What this engine is and can hold."""
        ...

    def encode(self, slot: int, prompt_ids: Sequence[int]) -> None:
        """Read a prompt (1..max_prompt_tokens ids, end token included) into the free slot `slot`."""
        ...

    def step(self, slots: Sequence[int], tokens: Sequence[int]) -> NDArray[np.float32]:
        """Feed `tokens[i]` to `slots[i]`; return the next token's logits, shape (len(slots), vocabulary).

        The first token of a slot is the decoder's start token. The array may be reused by the next call.
        """
        ...

    def extend(self, slot: int, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Feed several tokens to `slot`, the only live one; return their logits, shape (len(tokens), vocabulary).

        Row i has the bits that `step` would give after feeding tokens[: i + 1] one by one.
        """
        ...

    def rewind(self, slot: int, count: int) -> None:
        """Forget the last `count` tokens fed to `slot`, as if they had never been."""
        ...

    def release(self, slot: int) -> None:
        """Free `slot`, live or not, for another prompt."""
        ...
