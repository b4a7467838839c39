"""An engine without weights for tests: it answers with the prompt's own tokens, in order, then the end token."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from handler.engines.base import EngineDescription


class EchoEngine:
    """Echoes each prompt; remembers the slots of every step in `steps`, for tests that look at the batch."""

    def __init__(
        self,
        *,
        vocabulary: int,
        slots: int = 8,
        eos_token_id: int = 1,
        decoder_start_token_id: int = 0,
        draft_tokens: int = 0,
    ) -> None:
        self.description = EngineDescription(
            engine="echo",
            precision="none",
            device="cpu",
            device_note=None,
            slots=slots,
            max_prompt_tokens=512,
            max_new_tokens=512,
            max_beams=1,
            draft_tokens=draft_tokens,
            vocabulary=vocabulary,
            eos_token_id=eos_token_id,
            decoder_start_token_id=decoder_start_token_id,
        )
        self.steps: list[list[int]] = []
        self._echoes: dict[int, list[int]] = {}
        self._positions: dict[int, int] = {}

    def encode(self, slot: int, prompt_ids: Sequence[int]) -> None:
        """Remember what to echo from `slot`."""
        if slot in self._echoes:
            raise AssertionError(f"slot {slot} is live")
        self._echoes[slot] = [token for token in prompt_ids if token != self.description.eos_token_id]
        self._positions[slot] = 0

    def step(self, slots: Sequence[int], tokens: Sequence[int]) -> NDArray[np.float32]:
        """Return logits that leave only the next echoed token possible, and the end token unlikely before."""
        if len(slots) != len(tokens):
            raise AssertionError("one token for each slot")
        self.steps.append(list(slots))
        return np.concatenate([self._feed(slot) for slot in slots])

    def extend(self, slot: int, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Return what as many steps of `slot` would, which counts as one step."""
        self.steps.append([slot])
        return np.concatenate([self._feed(slot) for _ in tokens])

    def rewind(self, slot: int, count: int) -> None:
        """Echo the last `count` tokens of `slot` again."""
        self._positions[slot] -= count

    def release(self, slot: int) -> None:
        """Free `slot`."""
        self._echoes.pop(slot, None)

    def _feed(self, slot: int) -> NDArray[np.float32]:
        logits = np.full((1, self.description.vocabulary), -30.0, dtype=np.float32)
        echo, position = self._echoes[slot], self._positions[slot]
        logits[0, echo[position] if position < len(echo) else self.description.eos_token_id] = 30.0
        self._positions[slot] += 1
        return logits
