"""Fine-tunes a T5/GODEL checkpoint on grounded records: `python -m training.finetune --dataset_name FOLDER ...`.

Takes GODEL's own flags, by their names and meanings. In `--output_dir`: `model/` after the last step, `best/` by
validation loss, `checkpoint-N/` as asked, curves, and a resumable state: the same command goes on where it stood.
Several processes: `accelerate launch -m training.finetune ...`, or on CPUs `torchrun -m training.finetune ...`.
"""

import os
import sys
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import PartialState
from tokenizers import Tokenizer

from handler.contract.prompt import fit, neutralise
from training.batches import Epochs, Row, Share
from training.checkpoint import CheckpointError, resolve_checkpoint
from training.data import DataError, Record, read_records
from training.dataset import find_splits
from training.finetune_options import Options, parse
from training.losses import answer_objective
from training.model_folder import TOKENIZER, load_model, save_model
from training.run_folder import STATE, RunFolderError, keep_options
from training.train import Plan, new_accelerator, train
from training.validation import Validation


def finetune(options: Options) -> Path:
    """Fine-tune as `options` say and return the model folder. Raises DataError and what `train`, `load_model` do."""
    output = options.output_dir
    splits = find_splits(options.dataset_name, options.dataset_config_name, options.files)
    if options.early_stopping_patience and "validation" not in splits:
        raise DataError("--early_stopping_patience needs validation records, and there are none: --validation_file")
    accelerator = new_accelerator(options.precision)
    with accelerator.main_process_first():
        folder = resolve_checkpoint(options.model_name_or_path, output / "converted")
        named = options.tokenizer_name and resolve_checkpoint(options.tokenizer_name, output / "converted-tokenizer")
    model, tokenizer = load_model(folder, options.config_name)
    if named:
        _, tokenizer = load_model(named)
    if accelerator.is_main_process:
        keep_options(
            output,
            options.deciding() | {"num_processes": accelerator.num_processes},
            files={"weights": folder / "model.safetensors", "tokens": (named or folder) / TOKENIZER}
            | {f"{split} records": splits[split] for split in ("train", "validation") if split in splits},
            begun=(output / STATE).is_file(),
        )
    records = {split: read_records(path) for split, path in splits.items()}
    if options.no_kb:
        records = {split: [replace(record, knowledge="") for record in read] for split, read in records.items()}
    rows = {
        split: to_rows(read, tokenizer, options.max_length, options.max_target_length)
        for split, read in records.items()
    }

    a_step = options.per_device_train_batch_size * accelerator.num_processes * options.gradient_accumulation_steps
    share = Share(accelerator.process_index, accelerator.num_processes, options.gradient_accumulation_steps)
    source = Epochs(rows["train"], a_step, options.seed, share)
    steps = options.max_train_steps or options.num_train_epochs * source.steps
    validations = {
        split: Validation(
            rows=rows[split],
            records=records[split],
            tokenizer=tokenizer,
            accelerator=accelerator,
            batch_size=options.per_device_eval_batch_size,
            answered=options.max_eval_records if options.max_eval_records is not None else len(rows[split]),
            num_beams=options.num_beams,
            max_new_tokens=options.max_target_length,
        )
        for split in splits
        if split != "train"
    }
    accelerator.print(
        f"{options.exp_name}: {len(rows['train'])} records, {a_step} a step, {source.steps} steps an epoch,"
        f" {steps} in all; {accelerator.num_processes} process(es) on {accelerator.device.type},"
        f" {'bf16' if accelerator.mixed_precision == 'bf16' else 'fp32'}"
    )
    if options.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if options.lora_rank:
        model = _with_lora(model, options)
    save = partial(_save, tokenizer=tokenizer)

    def at_step(step: int, trained: Any) -> None:
        if step % options.save_steps == 0:
            save(trained, output / f"checkpoint-{step}")
        if options.save_every_checkpoint and step % source.steps == 0:
            save(trained, output / f"checkpoint-epoch-{step // source.steps}")

    progress = train(
        model,
        source,
        answer_objective(),
        Plan(
            steps=steps,
            learning_rate=options.learning_rate,
            warmup=options.num_warmup_steps,
            schedule=options.lr_scheduler_type,
            weight_decay=options.weight_decay,
            betas=(0.9, 0.999),
            max_grad_norm=options.max_grad_norm,
            seed=options.seed,
            log_every=options.logging_steps,
            save_every=options.state_steps,
            validate_every=source.steps if "validation" in validations else 0,
            patience=options.early_stopping_patience,
        ),
        output,
        accelerator,
        validate=validations.get("validation"),
        on_best=lambda trained: save(trained, output / "best"),
        on_step=at_step,
    )
    trained = accelerator.unwrap_model(model)
    if "test" in validations:
        accelerator.print(f"test: {_in_words(validations['test'](trained))}")
    if accelerator.is_main_process:
        save(trained, output / "model")
    accelerator.wait_for_everyone()
    best = f", best validation loss {progress.best:.4f} in {output / 'best'}" if "validation" in validations else ""
    accelerator.print(f"{progress.step} steps in all, last loss {progress.loss:.4f}{best}")
    return output / "model"


def to_rows(records: Sequence[Record], tokenizer: Tokenizer, most_prompt: int, most_target: int) -> list[Row]:
    """Return `records` as token ids, cut as the gateway cuts a prompt; of too long a response the start is kept."""
    prompts = [_fitted(record, tokenizer, most_prompt) for record in records]
    targets = [encoding.ids for encoding in tokenizer.encode_batch([neutralise(record.response) for record in records])]
    encoded = tokenizer.encode_batch(prompts)
    return [
        Row(prompt.ids, target if len(target) <= most_target else [*target[: most_target - 1], target[-1]])
        for prompt, target in zip(encoded, targets, strict=True)
    ]


def _fitted(record: Record, tokenizer: Tokenizer, budget: int) -> str:
    def count(text: str) -> int:
        return len(tokenizer.encode(text).ids)

    return fit(record.turns, record.knowledge, budget=budget, count_tokens=count).text


def _with_lora(model: Any, options: Options) -> Any:
    from peft import LoraConfig, TaskType, get_peft_model

    alpha = options.lora_alpha or 2 * options.lora_rank
    lora = LoraConfig(task_type=TaskType.SEQ_2_SEQ_LM, r=options.lora_rank, lora_alpha=alpha, target_modules=["q", "v"])
    return get_peft_model(model, lora)


def _save(model: Any, target: Path, tokenizer: Tokenizer) -> None:
    """Write a model folder; an adapter is merged into a copy, so that what is saved is a whole model."""
    if hasattr(model, "merge_and_unload"):
        model = deepcopy(model).merge_and_unload()
    save_model(model, tokenizer, target)


def _in_words(measured: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in measured.items())


def main() -> None:
    """Fine-tune from the command line."""
    options = parse()
    # The tokenizers library reads it once, when it first encodes.
    os.environ.setdefault("RAYON_NUM_THREADS", str(options.preprocessing_num_workers or os.cpu_count() or 1))
    try:
        model = finetune(options)
    except (CheckpointError, DataError, RunFolderError, OSError) as error:
        sys.exit(f"finetune: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        sys.exit("finetune: stopped; the same command goes on from the last saved state")
    if PartialState().is_main_process:
        print(f"model: {model}; serve it with `make serve MODEL={model}`")


if __name__ == "__main__":
    main()
