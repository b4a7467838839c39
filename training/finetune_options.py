"""The command line of fine-tuning: GODEL's flags by their names and meanings, and what was missing there."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from transformers import SchedulerType

from training.command_line import above_zero, whole, zero_or_more

BASE_MODEL: Final = "microsoft/GODEL-v1_1-base-seq2seq"
SCHEDULES: Final = tuple(
    kind.value
    for kind in (
        SchedulerType.LINEAR,
        SchedulerType.COSINE,
        SchedulerType.COSINE_WITH_RESTARTS,
        SchedulerType.POLYNOMIAL,
        SchedulerType.CONSTANT,
        SchedulerType.CONSTANT_WITH_WARMUP,
    )
)
_FREE: Final = frozenset({"output_dir", "preprocessing_num_workers", "logging_steps", "exp_name", "state_steps"})
"""What may change between a run and its resumption."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What one fine-tuning run does; a field is the flag of its name."""

    model_name_or_path: str = BASE_MODEL
    config_name: Path | None = None
    tokenizer_name: str | None = None
    dataset_name: str | None = None
    dataset_config_name: str | None = None
    train_file: Path | None = None
    validation_file: Path | None = None
    test_file: Path | None = None
    no_kb: bool = False
    max_length: int = 512
    max_target_length: int = 128
    preprocessing_num_workers: int | None = None
    output_dir: Path
    exp_name: str = "finetune"
    num_train_epochs: int = 3
    max_train_steps: int | None = None
    per_device_train_batch_size: int = 16
    per_device_eval_batch_size: int = 16
    gradient_accumulation_steps: int = 1
    gradient_checkpointing: bool = False
    learning_rate: float = 5e-5
    lr_scheduler_type: str = "linear"
    num_warmup_steps: int = 0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    seed: int = 42
    precision: str = "auto"
    lora_rank: int = 0
    lora_alpha: int | None = None
    num_beams: int = 1
    max_eval_records: int | None = None
    early_stopping_patience: int = 0
    logging_steps: int = 500
    save_steps: int = 10_000
    save_every_checkpoint: bool = False
    state_steps: int = 500

    @property
    def files(self) -> dict[str, Path]:
        """The data files named one by one."""
        named = {"train": self.train_file, "validation": self.validation_file, "test": self.test_file}
        return {split: path for split, path in named.items() if path}

    def deciding(self) -> dict[str, Any]:
        """Return the options that decide what comes out: a resumed run must have the same."""
        return {name: value for name, value in asdict(self).items() if name not in _FREE}


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Return the options of a command line; ends the program with a message on a wrong one."""
    parser = argparse.ArgumentParser(
        prog="python -m training.finetune",
        usage="%(prog)s --dataset_name FOLDER --output_dir FOLDER [flags]",
        description="Fine-tune GODEL, or a T5 v1.0, on {Context, Knowledge, Response} records. A run that was cut short"
        " goes on with the same command.",
    )
    defaults = {field.name: field.default for field in fields(Options)}

    def add(group: Any, name: str, kind: Any, text: str, **more: Any) -> None:
        default = defaults[name]
        shown = f" (default: {default})" if default not in (None, False) and name != "output_dir" else ""
        if kind is bool:
            group.add_argument(f"--{name}", action="store_true", help=text)
        else:
            more.setdefault("default", None if name == "output_dir" else default)
            group.add_argument(f"--{name}", type=kind, help=text + shown, **more)

    model = parser.add_argument_group("model")
    add(model, "model_name_or_path", str, "checkpoint folder, laid out like the hub's or ours, or a hub name")
    add(model, "config_name", Path, "folder of another config.json for it")
    add(model, "tokenizer_name", str, "checkpoint folder or hub name of another tokenizer for it")
    add(model, "lora_rank", whole(0), "train low-rank adapters of this rank alone; 0: all weights", metavar="N")
    add(model, "lora_alpha", whole(1), "scale of the adapters (default: twice the rank)", metavar="N")
    add(model, "gradient_checkpointing", bool, "compute activations twice instead of keeping them: half the memory")

    data = parser.add_argument_group("data")
    add(
        data,
        "dataset_name",
        str,
        "folder with train.jsonl and validation.jsonl (or NAME_train.jsonl, NAME_val.jsonl), as training.data writes"
        " it; or the path of GODEL's NAME_dataset.py, for the files beside it",
    )
    add(data, "dataset_config_name", str, "folder within that folder")
    for split in ("train", "validation", "test"):
        add(data, f"{split}_file", Path, f"JSON-lines file of {split} records, in place of the folder's")
    add(data, "no_kb", bool, "leave all knowledge out: answers from the dialogue alone")
    add(data, "max_length", whole(16), "tokens of a prompt, cut as it is when served", metavar="N")
    add(data, "max_target_length", whole(2), "tokens of a response", metavar="N")
    add(data, "preprocessing_num_workers", whole(1), "threads that tokenise (default: all)", metavar="N")

    run = parser.add_argument_group("training")
    add(run, "output_dir", Path, "run folder: model/, best/, checkpoint-N/, curves, state", required=True)
    add(run, "exp_name", str, "name of the experiment in what is printed")
    add(run, "num_train_epochs", whole(1), "times through the data", metavar="N")
    add(run, "max_train_steps", whole(1), "steps in all, whatever the epochs", metavar="N")
    add(run, "per_device_train_batch_size", whole(1), "records a process computes at once", metavar="N")
    add(run, "per_device_eval_batch_size", whole(1), "the same in validation", metavar="N")
    add(run, "gradient_accumulation_steps", whole(1), "batches a process gathers for one step", metavar="N")
    add(run, "learning_rate", above_zero, "the highest", metavar="RATE")
    add(run, "lr_scheduler_type", str, "how it falls", choices=SCHEDULES)
    add(run, "num_warmup_steps", whole(0), "steps in which it rises", metavar="N")
    add(run, "weight_decay", zero_or_more, "of matrices; norms have none", metavar="RATE")
    add(run, "max_grad_norm", above_zero, "gradients are clipped to it", metavar="NORM")
    add(run, "seed", int, "of order and dropout", metavar="N")
    add(run, "precision", str, "auto is bf16 where the machine multiplies in it", choices=("auto", "bf16", "fp32"))

    check = parser.add_argument_group("validation and saving")
    add(check, "num_beams", whole(1), "beams of the answers that are scored after each epoch", metavar="N")
    add(check, "max_eval_records", whole(0), "answer so many records, 0 none (default: all)", metavar="N")
    add(
        check,
        "early_stopping_patience",
        whole(0),
        "stop after so many epochs without a better loss; 0: never",
        metavar="N",
    )
    add(check, "logging_steps", whole(1), "a line of the curves each N steps", metavar="N")
    add(check, "save_steps", whole(1), "keep a model folder checkpoint-STEP each N steps", metavar="N")
    add(check, "save_every_checkpoint", bool, "keep a model folder checkpoint-epoch-NUMBER after each epoch")
    add(check, "state_steps", whole(1), "write the resumable state each N steps", metavar="N")
    options = Options(**vars(parser.parse_args(arguments)))
    if not options.dataset_name and not options.train_file:
        parser.error("say what to train on: --dataset_name FOLDER or --train_file FILE.jsonl")
    if options.early_stopping_patience and not (options.dataset_name or options.validation_file):
        parser.error("--early_stopping_patience needs validation records: --validation_file or --dataset_name")
    return options
