"""The torch engine on a GPU beside eager `transformers`: the same random weights in bf16, the same greedy work.

`python -m bench.gpu` builds base and large geometry with seeded random weights, and answers 450-token prompts with 40
tokens each: one request, and 64 at once. The end token ends nothing on either side, so that both do all steps.
`transformers` answers the 64 as one batch and, as a server without batching would, one after another.
Prints a table and a last JSON line. Without CUDA it says so and exits.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import T5Config, T5ForConditionalGeneration

from bench.machine import machine
from handler.engines.torch_engine import TorchEngine

VOCABULARY = 32_128
GEOMETRIES = {
    "base": {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12},
    "large": {"d_model": 1024, "d_kv": 64, "d_ff": 4096, "num_layers": 24, "num_heads": 16},
}


def make_model(geometry: dict[str, int]) -> Any:
    """Return a T5 of GODEL's kind with seeded random weights, in bf16 on the GPU."""
    make_config: Any = T5Config  # its signature leaves out what every PreTrainedConfig takes
    config = make_config(
        **geometry,
        vocab_size=VOCABULARY,
        feed_forward_proj="relu",
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    torch.manual_seed(0)
    with torch.device("cuda"):
        model: Any = T5ForConditionalGeneration(config)
    return model.to(torch.bfloat16).eval()


def answer_ours(engine: TorchEngine, prompts: list[list[int]], new_tokens: int) -> None:
    """Answer all prompts at once, greedily, from token ids to token ids."""
    slots = list(range(len(prompts)))
    for slot, prompt in zip(slots, prompts, strict=True):
        engine.encode(slot, prompt)
    tokens = [engine.description.decoder_start_token_id] * len(slots)
    for _ in range(new_tokens):
        tokens = engine.step(slots, tokens).argmax(-1).tolist()
    for slot in slots:
        engine.release(slot)


def answer_theirs(model: Any, prompts: list[list[int]], new_tokens: int) -> None:
    """Answer all prompts in one batch by `generate`."""
    ids = torch.tensor(prompts, device="cuda")
    mask = torch.ones_like(ids)
    answers = model.generate(
        ids, attention_mask=mask, do_sample=False, num_beams=1, max_new_tokens=new_tokens, eos_token_id=None
    ).tolist()
    if len(answers[0]) != new_tokens + 1:
        raise SystemExit(f"not the same work: transformers gave {len(answers[0]) - 1} tokens, not {new_tokens}")


def median_ms(rivals: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Return each rival's median over `rounds`, taken in turn after one round that warms up."""
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for number in range(rounds + 1):
        for name, answer in rivals.items():
            torch.cuda.synchronize()
            start = time.perf_counter()
            answer()
            torch.cuda.synchronize()
            if number:
                times[name].append((time.perf_counter() - start) * 1e3)
    return {name: round(statistics.median(taken), 2) for name, taken in times.items()}


def measure(name: str, options: argparse.Namespace) -> dict[str, float]:
    """Measure one geometry; return milliseconds and how many times faster ours is."""
    model = make_model(GEOMETRIES[name])
    random = np.random.default_rng(0)
    prompts = random.integers(4, 32_000, (options.requests, options.prompt_tokens)).tolist()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        engine = TorchEngine(Path(folder), slots=options.requests, precision="bf16", device="gpu")
    new = options.new_tokens
    rivals: dict[str, Callable[[], None]] = {
        "ours_1": lambda: answer_ours(engine, prompts[:1], new),
        "transformers_1": lambda: answer_theirs(model, prompts[:1], new),
        "ours_many": lambda: answer_ours(engine, prompts, new),
        "transformers_many": lambda: answer_theirs(model, prompts, new),
    }
    taken = median_ms(rivals, options.rounds)
    return {
        **{f"{name}_ms": value for name, value in taken.items()},
        "one_vs_transformers": round(taken["transformers_1"] / taken["ours_1"], 2),
        "many_vs_transformers_batch": round(taken["transformers_many"] / taken["ours_many"], 2),
        "many_vs_transformers_in_turn": round(options.requests * taken["transformers_1"] / taken["ours_many"], 2),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of all rivals (default: %(default)s)")
    parser.add_argument("--requests", type=int, default=64, help="requests at once (default: %(default)s)")
    parser.add_argument("--prompt-tokens", type=int, default=450, help="tokens a prompt (default: %(default)s)")
    parser.add_argument("--new-tokens", type=int, default=40, help="tokens an answer (default: %(default)s)")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("bench.gpu needs a CUDA device, and PyTorch sees none")
    results = {name: measure(name, options) for name in GEOMETRIES}
    print(f"{'':30}" + "".join(f"{name:>12}" for name in results))
    for row in results["base"]:
        print(f"{row:30}" + "".join(f"{figures[row]:>12}" for figures in results.values()))
    gpu = torch.cuda.get_device_name()
    print(json.dumps({**results, "requests": options.requests, "gpu": gpu, "machine": machine()}))


if __name__ == "__main__":
    main()
