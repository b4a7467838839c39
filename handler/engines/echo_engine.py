"""An engine without weights for tests: it answers with the prompt's own tokens, in order, then the end token."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from handler.engines.base import EngineDescription


class EchoEngine:
    """Echoes each prompt; remembers the slots of every step in `steps`, for tests that look at the batch."""

    def __init__(
        self, *, vocabulary: int, slots: int = 8, eos_token_id: int = 1, decoder_start_token_id: int = 0
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
            vocabulary=vocabulary,
            eos_token_id=eos_token_id,
            decoder_start_token_id=decoder_start_token_id,
        )
        self.steps: list[list[int]] = []
        self._pending: dict[int, list[int]] = {}

    def encode(self, slot: int, prompt_ids: Sequence[int]) -> None:
        """Remember what to echo from `slot`."""
        if slot in self._pending:
            raise AssertionError(f"slot {slot} is live")
        self._pending[slot] = [token for token in prompt_ids if token != self.description.eos_token_id]

    def step(self, slots: Sequence[int], tokens: Sequence[int]) -> NDArray[np.float32]:
        """Return logits that leave only the next echoed token possible, and the end token unlikely before."""
        if len(slots) != len(tokens):
            raise AssertionError("one token for each slot")
        self.steps.append(list(slots))
        logits = np.full((len(slots), self.description.vocabulary), -30.0, dtype=np.float32)
        for row, slot in enumerate(slots):
            pending = self._pending[slot]
            logits[row, pending.pop(0) if pending else self.description.eos_token_id] = 30.0
        return logits

    def release(self, slot: int) -> None:
        """Free `slot`."""
        self._pending.pop(slot, None)
