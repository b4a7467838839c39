"""What training minimises, and the counts its curves are drawn from.

An objective takes a model and a batch and returns an `Outcome`: losses are sums over target tokens, or count as so
many of them, so that shares of one step, spread over processes or gathered one after another, add up to the whole.
Nothing here asks a device for a value, so a GPU is never waited for.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as functional
from torch import Tensor

from training.batches import IGNORED, Batch
from training.circuits import CHOSEN

_NEVER = -1e4
"""A score that no softmax notices, and that leaves no NaN where a whole row has it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """`loss` is summed over the batch's target tokens and has a gradient; `counts` name (number, of how many)."""

    loss: Tensor
    counts: dict[str, tuple[Tensor, Tensor | int]]


Objective = Callable[[Any, Batch], Outcome]


def answer_objective(choice_weight: float = 0.0) -> Objective:
    """Return the cross-entropy of the target, and `choice_weight` times the loss of choosing its sentence."""

    def objective(model: Any, batch: Batch) -> Outcome:
        output = predict(model, batch)
        answer = answer_loss(output.logits, batch.labels)
        scores = choice_scores(output.encoder_last_hidden_state, batch.offered)
        loss = answer
        if choice_weight:
            loss = answer + choice_weight * batch.choice_targets * choice_loss(scores, batch.chosen)
        counts = answer_counts(output.logits, batch, answer)
        counts["choice_accuracy"] = choice_hits(scores.detach(), batch.chosen)
        return Outcome(loss, counts)

    return objective


def predict(model: Any, batch: Batch) -> Any:
    """Return the model's output for the batch's prompts and, teacher-forced, its targets."""
    plain = getattr(model, "module", model)  # of a model spread over processes
    return model(
        input_ids=batch.prompts,
        attention_mask=batch.attention if batch.padded else None,
        decoder_input_ids=plain.prepare_decoder_input_ids_from_labels(batch.labels),
        use_cache=False,
    )


def answer_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of `logits` (rows, tokens, vocabulary) summed over the target tokens, in float32."""
    return functional.cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )


def answer_counts(logits: Tensor, batch: Batch, answer: Tensor) -> dict[str, tuple[Tensor, Tensor | int]]:
    """Return the loss, how often all tokens are right (copying) and how often the first is (choosing)."""
    right = (logits.detach().argmax(-1) == batch.labels) & (batch.labels != IGNORED)
    return {
        "loss": (answer.detach(), batch.targets),
        "token_accuracy": (right.sum(), batch.targets),
        "first_token_accuracy": (right[:, 0].sum(), len(right)),
    }


def choice_scores(encoded: Tensor, offered: Tensor) -> Tensor:
    """Return the float32 score (rows, tokens) by which the encoder's output chooses among the offered tokens."""
    return encoded[..., CHOSEN].float().masked_fill(~offered, _NEVER)


def choice_loss(scores: Tensor, chosen: Tensor) -> Tensor:
    """Return how far the softmax of `scores` (rows, tokens) is from the `chosen` tokens; 0 where no row has any.

    A mean over the rows with chosen tokens: times a batch's `choice_targets`, shares of a step add up to the whole.
    Of each row it is the mean of two: minus the log of the probability on the chosen tokens together, and the
    divergence from an even spread over them. The first picks the sentence, the second keeps its tokens level, so that
    copying is not drawn to one word of it.
    """
    rows = chosen.any(-1)
    log = scores.log_softmax(-1)
    together = log.masked_fill(~chosen, _NEVER).logsumexp(-1)
    count = chosen.sum(-1).clamp(min=1)
    spread = (log * chosen).sum(-1) / count + count.log()
    return -((together + spread) * rows).sum() / (2 * rows.sum().clamp(min=1))


def choice_hits(scores: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Return in how many rows with chosen tokens more than half of the probability is on them, and of how many."""
    rows = chosen.any(-1)
    return ((scores.softmax(-1) * chosen).sum(-1) > 0.5).sum(), rows.sum()
