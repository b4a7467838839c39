"""Talk to the embedded model without any server: `python -m examples.chat "How many players has a team?"`."""

import sys
from pathlib import Path

from handler.contract.generation import GenerationParameters
from handler.contract.prompt import fit
from handler.engines import load_engine
from handler.scheduler import Scheduler
from handler.tokenization import Tokenization

MODEL = Path(__file__).parent.parent / "models" / "embedded"
KNOWLEDGE = Path(__file__).with_name("cricket.txt").read_text(encoding="utf-8")

tokenization = Tokenization(MODEL / "tokenizer.json")
scheduler = Scheduler(load_engine("torch", "auto", MODEL, slots=1), prefill_tokens=512)


def chat(message: str) -> str:
    """Return the model's answer to `message` from the passage in `cricket.txt`."""
    prompt = fit([message], KNOWLEDGE, budget=512, count_tokens=lambda text: len(tokenization.encode(text)))
    scheduler.submit("message", tokenization.encode(prompt.text), GenerationParameters(do_sample=False))
    while not (finished := scheduler.step()):
        pass
    return tokenization.decode(finished[0].tokens)


if __name__ == "__main__":
    print(chat(" ".join(sys.argv[1:]) or "How many players are in a cricket team?"))
