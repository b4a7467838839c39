"""This project's engine, asked like a peer: prompts go through the scheduler as they do in the worker."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.peers.protocol import serve
from handler.contract.generation import GenerationParameters
from handler.engines import load_engine
from handler.scheduler import Scheduler


class OwnPeer:
    """The options are `engine` and `precision` by name, and `slots`, as `load_engine` knows them."""

    def load(self, checkpoint: Path, *, engine: str, precision: str, slots: int) -> dict[str, Any]:
        """Load the engine with room for any prompt and answer that is measured."""
        loaded = load_engine(
            engine, precision, checkpoint, slots=slots, max_prompt_tokens=MOST_PROMPT, max_new_tokens=MOST_NEW
        )
        # As in the worker: a step encodes one prompt of the usual length, and the live ones go on. Without drafts:
        # random weights have nothing to copy, and every token is to cost a step, as it does the others.
        self._scheduler = Scheduler(loaded, prefill_tokens=512, drafts=False)
        return asdict(loaded.description)

    def run(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[list[int]]:
        """Submit all prompts at once; return when the last is answered."""
        parameters = GenerationParameters(do_sample=False, min_length=new_tokens, max_length=new_tokens)
        for key, prompt in enumerate(prompts):
            self._scheduler.submit(key, prompt, parameters)
        answers: dict[object, list[int]] = {}
        while not self._scheduler.idle:
            answers |= {finished.key: list(finished.tokens) for finished in self._scheduler.step()}
        return [answers[key] for key in range(len(prompts))]


MOST_PROMPT, MOST_NEW = 1024, 256

if __name__ == "__main__":
    serve(OwnPeer())
