"""How a model in training does on records it is not trained on: loss, and metrics of answers it writes itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from tokenizers import Tokenizer

from training.batches import Row, collate
from training.data import Record
from training.losses import answer_loss, predict
from training.metrics import score


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """Measures a model on `rows`, the token ids of `records`; processes take a share each."""

    rows: Sequence[Row]
    records: Sequence[Record]
    tokenizer: Tokenizer
    accelerator: Accelerator
    batch_size: int
    answered: int
    """How many of the records are answered, evenly spread; 0: the loss alone."""
    num_beams: int
    max_new_tokens: int

    def __call__(self, model: Any) -> dict[str, float]:
        """Return `loss`, the mean over target tokens, and where records are answered the metrics of `score`."""
        model.eval()
        with torch.inference_mode(), self.accelerator.autocast():
            measured = {"loss": self._loss(model)}
            if self.answered:
                measured |= self._metrics(model)
        return measured

    def _mine(self, numbers: Sequence[int]) -> list[list[int]]:
        """Return this process' share of row numbers, in batches of rows of like length."""
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        mine = sorted(numbers, key=lambda number: (len(self.rows[number].prompt), number))[rank::processes]
        return [mine[first : first + self.batch_size] for first in range(0, len(mine), self.batch_size)]

    def _loss(self, model: Any) -> float:
        total = torch.zeros(2, dtype=torch.float64, device=self.accelerator.device)
        for numbers in self._mine(range(len(self.rows))):
            batch = collate([self.rows[number] for number in numbers]).to(self.accelerator.device)
            loss = answer_loss(predict(model, batch).logits, batch.labels)
            total += torch.stack([loss.double(), torch.tensor(float(batch.targets)).double().to(loss.device)])
        loss, targets = self.accelerator.reduce(total, "sum").tolist()
        return float(loss / targets)

    def _metrics(self, model: Any) -> dict[str, float]:
        count = min(self.answered, len(self.rows))
        asked = [number * len(self.rows) // count for number in range(count)]
        mine: list[tuple[int, str]] = []
        for numbers in self._mine(asked):
            batch = collate([self.rows[number] for number in numbers]).to(self.accelerator.device)
            tokens = model.generate(
                input_ids=batch.prompts,
                attention_mask=batch.attention,
                num_beams=self.num_beams,
                do_sample=False,
                max_new_tokens=self.max_new_tokens,
            )
            answers = self.tokenizer.decode_batch(tokens.tolist(), skip_special_tokens=True)
            mine.extend(zip(numbers, (answer.strip() for answer in answers), strict=True))
        answered = dict(gather_object(mine))
        records = [self.records[number] for number in asked]
        return score(
            [answered[number] for number in asked],
            [record.response for record in records],
            [record.answer for record in records],
        )
