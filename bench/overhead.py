"""What the whole stack adds to the engine: the same greedy answers, engine alone and over HTTP, in pairs.

`python -m bench.overhead` starts a TorchServe and a gateway of its own from `model_store/godel.mar`, loads the
same engine in this process, and asks both the same questions in turn, one at a time. Prints a table and a last
JSON line; `stack_overhead_ms_p50` is the median of the differences.
"""

import argparse
import json
import statistics
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from bench.machine import machine
from handler.contract.archive import MODEL_FOLDER, read_metadata
from handler.contract.generation import GenerationParameters
from handler.contract.prompt import fit
from handler.engines import load_engine
from handler.scheduler import Scheduler
from handler.tokenization import Tokenization
from launcher.stack import Stack
from launcher.trial import ARCHIVE, trial_stack

ROOT = Path(__file__).parent.parent
QUESTIONS = (
    "How many players are in each team?",
    "What is the objective of the game?",
    "How long is the pitch?",
    "What is a wicket?",
    "How many balls make an over?",
    "Where did the sport grow up?",
)


class EngineAlone:
    """The served engine in this process, without TorchServe, gateway or HTTP."""

    def __init__(self, model_dir: Path, metadata: dict[str, Any]) -> None:
        self._tokenization = Tokenization(model_dir / "tokenizer.json")
        engine = load_engine(metadata["engine"], metadata["precision"], model_dir, slots=8)
        self._scheduler = Scheduler(engine, prefill_tokens=512)

    def prompt(self, message: str, knowledge: str) -> str:
        """Return the prompt that the gateway builds for `message` about a passage."""
        count = self._tokenization.encode
        return fit([message], knowledge, budget=512, count_tokens=lambda text: len(count(text))).text

    def answer(self, prompt: str, parameters: GenerationParameters) -> str:
        """Return the answer to a prompt: text in, text out, as the handler does it."""
        self._scheduler.submit("only", self._tokenization.encode(prompt), parameters)
        while not (finished := self._scheduler.step()):
            pass
        return self._tokenization.decode(finished[0].tokens)


def measure_overhead(
    stack: Stack,
    archive: Path,
    scratch: Path,
    knowledge: str,
    questions: Sequence[str],
    *,
    rounds: int,
    new_tokens: int,
) -> dict[str, Any]:
    """Return the medians of `rounds` rounds of all `questions`, in milliseconds, after one that warms up.

    `stack` serves `archive`, which is unpacked into the folder `scratch`. Raises SystemExit when the answers differ.
    """
    parameters = GenerationParameters(do_sample=False, max_length=new_tokens, min_length=new_tokens)
    alone_ms: list[float] = []
    stack_ms: list[float] = []
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(scratch / "archive")
    metadata = read_metadata(archive)
    engine = EngineAlone(scratch / "archive" / MODEL_FOLDER, metadata)
    bot = f"{stack.gateway_url}/v1/bots/overhead"
    body = {"parameters": parameters.to_mapping()}
    with httpx.Client(timeout=60) as http:
        http.put(bot, json={"knowledge": knowledge}).raise_for_status()
        for round_number in range(rounds + 1):
            for question in questions:
                prompt = engine.prompt(question, knowledge)
                start = time.perf_counter()
                expected = engine.answer(prompt, parameters)
                between = time.perf_counter()
                reply = http.post(f"{bot}/chat", json={"message": question, **body}).raise_for_status().json()
                end = time.perf_counter()
                if reply["response"] != expected:
                    raise SystemExit(f"not the same work: {expected!r} alone, {reply['response']!r} through the stack")
                if round_number:  # the first round warms both up
                    alone_ms.append((between - start) * 1e3)
                    stack_ms.append((end - between) * 1e3)
    differences = [stack - alone for stack, alone in zip(stack_ms, alone_ms, strict=True)]
    return {
        "engine_ms_p50": round(statistics.median(alone_ms), 2),
        "stack_ms_p50": round(statistics.median(stack_ms), 2),
        "stack_overhead_ms_p50": round(statistics.median(differences), 2),
        "pairs": len(differences),
        "new_tokens": new_tokens,
        "model": metadata,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=10, help="rounds of all questions (default: %(default)s)")
    parser.add_argument("--max-length", type=int, default=40, help="new tokens forced (default: %(default)s)")
    options = parser.parse_args()
    knowledge = (ROOT / "examples" / "cricket.txt").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as scratch, trial_stack(Path(scratch)) as stack:
        measured = measure_overhead(
            stack,
            ARCHIVE,
            Path(scratch),
            knowledge,
            QUESTIONS,
            rounds=options.rounds,
            new_tokens=options.max_length,
        )
    result = measured | {"machine": machine()}
    print(f"engine alone      {result['engine_ms_p50']:>9} ms  (median of {result['pairs']})")
    print(f"whole stack       {result['stack_ms_p50']:>9} ms")
    print(f"stack over engine {result['stack_overhead_ms_p50']:>9} ms  (median of the differences)")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
