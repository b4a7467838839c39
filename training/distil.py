"""Teaches a student what its teacher does: `python -m training.distil --teacher FOLDER --student FOLDER ...`.

Two kinds of teaching, both at once: the student learns the answers that the teacher writes (sequence-level
distillation, Kim and Rush 2016) beside the reference ones, and at each of their tokens the teacher's whole
distribution (Hinton et al. 2015). The teacher's answers come first, into `answers.jsonl`; a run that was cut
short goes on in either part where it stood.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as functional
import yaml
from accelerate import PartialState
from tokenizers import Tokenizer
from torch import Tensor

from handler.engines.base import EngineError
from training.answers import read_answers, write_answers
from training.batches import IGNORED, Batch, BatchShape, Drawn, Share
from training.checkpoint import CheckpointError
from training.data import DataError
from training.distil_options import Options, parse
from training.losses import (
    Objective,
    Outcome,
    answer_counts,
    answer_loss,
    choice_hits,
    choice_loss,
    choice_scores,
    predict,
)
from training.mixtures import Material, RecipeError, build_mixture
from training.model_folder import load_model, save_model
from training.run_folder import STATE, RunFolderError, keep_options
from training.text import TextError
from training.train import Plan, new_accelerator, train

ANSWERS: Final = "answers.jsonl"
_WAITS: Final = timedelta(days=7)
"""For the teacher's answers, which one process writes: hours, where the teacher is large and there is no GPU."""


def distil(options: Options) -> Path:
    """Distil as `options` say and return the student's model folder.

    Raises DataError, RecipeError, CheckpointError, EngineError or RunFolderError.
    """
    output = options.output_dir
    accelerator = new_accelerator(options.precision, waits=_WAITS)
    teacher, teacher_tokenizer = load_model(options.teacher)
    student, tokenizer = load_model(options.student)
    old_ids = teacher_ids(tokenizer, teacher_tokenizer)
    if accelerator.is_main_process:
        entries, data, text = _drawn_from(options)
        exercise = build_mixture(entries, Material(data, text))
        keep_options(
            output,
            options.deciding() | {"num_processes": accelerator.num_processes, "mixture": entries},
            files={"weights of the teacher": options.teacher / "model.safetensors"}
            | {"weights of the student": options.student / "model.safetensors"}
            | {f"records of {entry['file']}": data / entry["file"] for entry in entries if "file" in entry}
            # A text that no exercise draws from need not be there.
            | {f"text of {path.name}": path for path in text if path.is_file()},
            begun=(output / ANSWERS).is_file() or (output / STATE).is_file(),
        )
        write_answers(
            output / ANSWERS,
            exercise,
            options.teacher,
            count=options.answers,
            reference_share=options.reference_share,
            seed=options.seed,
        )
    accelerator.wait_for_everyone()
    pairs = read_answers(output / ANSWERS)
    teacher = teacher.to(accelerator.device).eval().requires_grad_(False)
    progress = train(
        student,
        Drawn(
            lambda rng: rng.choice(pairs),
            tokenizer,
            BatchShape(tokens=options.tokens),
            options.seed,
            Share(accelerator.process_index, accelerator.num_processes),
        ),
        distillation_objective(
            teacher, torch.tensor(old_ids), options.logit_weight, options.temperature, options.choice_weight
        ),
        Plan(
            steps=options.max_train_steps,
            learning_rate=options.learning_rate,
            warmup=options.num_warmup_steps,
            fall_from=0.2,
            seed=options.seed,
            log_every=options.logging_steps,
            save_every=options.state_steps,
        ),
        output,
        accelerator,
    )
    if accelerator.is_main_process:
        save_model(accelerator.unwrap_model(student), tokenizer, output / "model")
    accelerator.wait_for_everyone()
    accelerator.print(f"{progress.step} steps in all, last loss {progress.loss:.4f}")
    return output / "model"


def teacher_ids(student: Tokenizer, teacher: Tokenizer) -> list[int]:
    """Return the teacher's id of each of the student's tokens. Raises CheckpointError when it does not know one."""
    ids = []
    for index in range(student.get_vocab_size()):
        token = student.id_to_token(index) or ""
        found = teacher.token_to_id(token)
        if found is None:
            raise CheckpointError(f"the teacher has no token {token!r}: student and teacher must share a tokenizer")
        ids.append(found)
    return ids


def distillation_objective(
    teacher: Any, old_ids: Tensor, logit_weight: float, temperature: float, choice_weight: float
) -> Objective:
    """Return the cross-entropy of the target, plus `logit_weight` times the teacher's distribution at each token.

    The latter is the Kullback-Leibler divergence at `temperature` T, times T squared, of the teacher's
    distribution over the student's tokens; `old_ids` are the teacher's ids of these. A model may have more embeddings
    than its tokenizer has tokens, as T5 has: those are left out. `choice_weight` is as in `answer_objective`.
    """

    def objective(model: Any, batch: Batch) -> Outcome:
        output = predict(model, batch)
        answer = answer_loss(output.logits, batch.labels)
        ids = old_ids.to(batch.prompts.device)
        asked = replace(
            batch,
            prompts=ids[batch.prompts],
            labels=torch.where(batch.labels == IGNORED, IGNORED, ids[batch.labels.clamp(min=0)]),
        )
        with torch.no_grad():
            wanted = predict(teacher, asked).logits[..., ids]
        written = batch.labels != IGNORED
        divergence = functional.kl_div(
            functional.log_softmax(output.logits[written][:, : len(ids)].float() / temperature, -1),
            functional.log_softmax(wanted[written].float() / temperature, -1),
            reduction="sum",
            log_target=True,
        )
        divergence = divergence * temperature**2
        scores = choice_scores(output.encoder_last_hidden_state, batch.offered)
        loss = answer + logit_weight * divergence
        if choice_weight:
            loss = loss + choice_weight * batch.choice_targets * choice_loss(scores, batch.chosen)
        counts = answer_counts(output.logits, batch, answer)
        counts["choice_accuracy"] = choice_hits(scores.detach(), batch.chosen)
        counts["divergence"] = divergence.detach(), batch.targets
        return Outcome(loss, counts)

    return objective


def _drawn_from(options: Options) -> tuple[Sequence[Mapping[str, Any]], Path, list[Path]]:
    """Return what to draw from, the recipe's last stage or the records of the files, and its data and text files."""
    if options.recipe:
        recipe = yaml.safe_load(options.recipe.read_text(encoding="utf-8"))
        data = options.data[0] if options.data else Path(recipe["data"])
        return recipe["stages"][-1]["mixture"], data, [data / name for name in recipe.get("text", [])]
    entries = [{"exercise": "records", "file": str(path), "weight": 1, "words": options.words} for path in options.data]
    return entries, Path(), []


def main() -> None:
    """Distil from the command line."""
    options = parse()
    try:
        model = distil(options)
    except (CheckpointError, DataError, EngineError, OSError, RecipeError, RunFolderError, TextError) as error:
        sys.exit(f"distil: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        sys.exit("distil: stopped; the same command goes on from the last saved state")
    if PartialState().is_main_process:
        print(f"model: {model}; serve it with `make serve MODEL={model}`")


if __name__ == "__main__":
    main()
