"""One training stage: a model, a mixture of exercises, a number of steps; resumable to the same result.

bf16 autocast where the machine has it, AdamW, warm-up then a linear fall, clipped gradients. Everything that
decides the next step is in the checkpoint: weights, moments, step and the position in the data.
"""

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import Tokenizer
from tqdm import tqdm

from handler.engines.torch_engine import multiplies_in_bf16
from training.batches import IGNORED, Batch, BatchShape, Exercise, Position, batches
from training.run_folder import load_state, save_state

LOG: Final = "log.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a stage does. `learning_rate` is the peak, reached after `warmup` steps, falling to `floor` of it."""

    steps: int
    learning_rate: float
    warmup: int = 100
    floor: float = 0.05
    fall_from: float = 0.5
    """The share of the steps after which the rate falls; it is level before."""
    max_grad_norm: float = 1.0
    seed: int = 0
    log_every: int = 50
    save_every: int = 250
    shape: BatchShape = field(default_factory=BatchShape)

    def rate(self, step: int) -> float:
        """Return the learning rate of `step`, counted from 0."""
        rising = min(1.0, (step + 1) / max(1, self.warmup))
        left = (self.steps - step) / max(1.0, self.steps * (1 - self.fall_from))
        return self.learning_rate * rising * min(1.0, max(self.floor, left))


def train(
    model: Any,
    tokenizer: Tokenizer,
    exercise: Exercise,
    plan: Plan,
    folder: Path,
    *,
    on_step: Callable[[int], None] = lambda _: None,
) -> float:
    """Run `plan` on `model`, in place, from the folder's checkpoint where there is one; return the last loss.

    Appends to `folder/log.jsonl`. Raises RunFolderError when a checkpoint cannot be written or read.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=plan.learning_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True
    )
    done, position, loss = 0, Position(), float("nan")
    if state := load_state(folder):
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        done, position, loss = state["step"], Position(*state["position"]), state["loss"]
    folder.mkdir(parents=True, exist_ok=True)
    meter = _Meter(folder / LOG)
    model.train()
    source = batches(exercise, tokenizer, plan.shape, plan.seed, position)
    steps = range(done, plan.steps)
    for step in tqdm(steps, initial=done, total=plan.steps, desc=folder.name, mininterval=5):
        batch, position = next(source)
        for group in optimizer.param_groups:
            group["lr"] = plan.rate(step)
        loss = _step(model, optimizer, batch, plan, meter)
        on_step(step + 1)
        if (step + 1) % plan.log_every == 0 or step + 1 == plan.steps:
            meter.write(step + 1, plan.rate(step))
        if (step + 1) % plan.save_every == 0 or step + 1 == plan.steps:
            save_state(
                folder,
                {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step + 1,
                    "position": (position.pool, position.batch),
                    "loss": loss,
                },
            )
    return loss


def _step(model: Any, optimizer: torch.optim.Optimizer, batch: Batch, plan: Plan, meter: "_Meter") -> float:
    with _autocast():
        output = model(input_ids=batch.prompts, attention_mask=batch.attention, labels=batch.labels)
    output.loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), plan.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    loss = float(output.loss.detach())
    meter.add(batch, output.logits, loss)
    return loss


def _autocast() -> AbstractContextManager[Any]:
    return torch.autocast("cpu", torch.bfloat16, enabled=multiplies_in_bf16(torch.device("cpu")))


class _Meter:
    """Loss, teacher-forced token accuracy (the copying curve) and tokens a second since it last wrote."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reset()

    def add(self, batch: Batch, logits: torch.Tensor, loss: float) -> None:
        kept = batch.labels != IGNORED
        with torch.no_grad():
            self._right += int((logits.argmax(-1) == batch.labels)[kept].sum())
        targets = int(kept.sum())
        self._targets += targets
        self._loss += loss * targets
        self._tokens += batch.tokens

    def write(self, step: int, rate: float) -> None:
        row = {
            "step": step,
            "loss": round(self._loss / self._targets, 4),
            "token_accuracy": round(self._right / self._targets, 4),
            "tokens_per_second": round(self._tokens / (time.perf_counter() - self._since)),
            "learning_rate": rate,
        }
        with self._path.open("a", encoding="utf-8") as log:
            log.write(json.dumps(row) + "\n")
        self._reset()

    def _reset(self) -> None:
        self._since = time.perf_counter()
        self._right = self._targets = self._tokens = 0
        self._loss = 0.0
