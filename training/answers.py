"""What a model answers, by the engine that serves it: greedy, several prompts at a time."""

import json
import math
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

from tqdm import tqdm

from handler.contract.generation import GenerationParameters
from handler.contract.prompt import CONTEXT_TAG, neutralise
from handler.engines import load_engine
from handler.scheduler import Scheduler
from handler.tokenization import Tokenization
from training.batches import Exercise
from training.data import Pair

SLOTS: Final = 8
GREEDY: Final = GenerationParameters(do_sample=False, max_length=80, min_length=0)
_CHUNK: Final = 128
"""Answers written to disk at once."""


class Answerer:
    """A model folder, loaded by a serving engine."""

    def __init__(self, model: Path, engine: str = "torch", precision: str = "auto", slots: int = SLOTS) -> None:
        """Load the engine. Raises EngineError when it cannot."""
        self._tokenization = Tokenization(model / "tokenizer.json")
        self._engine = load_engine(engine, precision, model, slots=slots)
        self._tokens = self._steps = 0

    @property
    def budget(self) -> int:
        """The most tokens of a prompt."""
        return self._engine.description.max_prompt_tokens

    @property
    def tokens_per_step(self) -> float:
        """Tokens of an answer for each step of the model spent on it so far; above 1 where drafts were right."""
        return self._tokens / self._steps if self._steps else math.nan

    def count_tokens(self, text: str) -> int:
        """Return how many tokens `text` is, the end token included."""
        return len(self._tokenization.encode(text))

    def __call__(self, prompts: Sequence[str], answered: Callable[[], object] = lambda: None) -> list[str]:
        """Return the answers to rendered prompts of at most `budget` tokens, in their order.

        `answered` is called after each, in whatever order they end.
        """
        scheduler = Scheduler(self._engine, prefill_tokens=self.budget)
        for number, prompt in enumerate(prompts):
            scheduler.submit(number, self._tokenization.encode(prompt), GREEDY)
        answers = [""] * len(prompts)
        while not scheduler.idle:
            for finished in scheduler.step():
                # The end token is one of them: it takes a step like any other.
                self._tokens += len(finished.tokens) + (finished.finish_reason == "stop")
                self._steps += finished.steps
                answers[int(str(finished.key))] = self._tokenization.decode(finished.tokens)
                answered()
        return answers


def write_answers(
    path: Path, exercise: Exercise, teacher: Path, *, count: int, reference_share: float, seed: int
) -> None:
    """Draw `count` pairs and write them to `path` with the teacher's answers as targets; go on where it stands.

    `reference_share` of them keep their own target, as do those that say the knowledge holds no answer, and
    those that are no dialogue.
    """
    done = _whole_lines(path)
    if done >= count:
        return
    answer = Answerer(teacher)
    with path.open("a", encoding="utf-8") as file, tqdm(total=count, initial=done, desc="teacher answers") as bar:
        for first in range(done, count, _CHUNK):
            pairs = []
            for number in range(first, min(count, first + _CHUNK)):
                rng = random.Random(f"{seed}:{number}")
                pairs.append((exercise(rng), rng.random() < reference_share))
            asked = [
                number
                for number, (pair, keeps) in enumerate(pairs)
                if not (keeps or pair.grounds == "" or CONTEXT_TAG not in pair.prompt)
                and answer.count_tokens(pair.prompt) <= answer.budget
            ]
            targets = dict(zip(asked, answer([pairs[number][0].prompt for number in asked]), strict=True))
            for number, (pair, _) in enumerate(pairs):
                target = neutralise(targets.get(number) or pair.target)
                file.write(json.dumps(asdict(replace(pair, target=target))) + "\n")
            file.flush()
            os.fsync(file.fileno())
            bar.update(len(pairs))


def read_answers(path: Path) -> list[Pair]:
    """Return the pairs of a file of answers."""
    return [Pair(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def _whole_lines(path: Path) -> int:
    """Return how many lines `path` has, after dropping a last one that a kill cut short."""
    if not path.is_file():
        return 0
    text = path.read_bytes()
    end = text.rfind(b"\n") + 1
    if end < len(text):
        with path.open("r+b") as file:
            file.truncate(end)
    return text[:end].count(b"\n")
