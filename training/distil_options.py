"""The command line of distillation."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from training.command_line import above_zero, share, whole, zero_or_more

_FREE: Final = frozenset({"output_dir", "logging_steps", "state_steps"})
"""What may change between a run and its resumption."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What one distillation does; a field is the flag of its name."""

    teacher: Path
    student: Path
    data: tuple[Path, ...] = ()
    recipe: Path | None = None
    output_dir: Path
    words: int = 320
    answers: int = 4000
    reference_share: float = 0.3
    logit_weight: float = 1.0
    choice_weight: float = 0.0
    temperature: float = 2.0
    max_train_steps: int = 1000
    tokens: int = 4096
    learning_rate: float = 5e-4
    num_warmup_steps: int = 50
    seed: int = 42
    precision: str = "auto"
    logging_steps: int = 50
    state_steps: int = 250

    def deciding(self) -> dict[str, Any]:
        """Return the options that decide what comes out: a resumed run must have the same."""
        return {name: value for name, value in asdict(self).items() if name not in _FREE}


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Return the options of a command line; ends the program with a message on a wrong one."""
    parser = argparse.ArgumentParser(
        prog="python -m training.distil",
        description="Teach a student its teacher's answers and distributions. A run that was cut short goes on with"
        " the same command.",
    )
    defaults = {field.name: field.default for field in fields(Options)}

    def add(name: str, kind: Any, text: str, **more: Any) -> None:
        if "required" not in more:
            more.setdefault("default", defaults[name])
            text += f" (default: {defaults[name]})" if defaults[name] not in (None, ()) else ""
        parser.add_argument(f"--{name}", type=kind, help=text, **more)

    add("teacher", Path, "model folder", required=True)
    add("student", Path, "model folder made by training.student", required=True)
    add("data", Path, "JSON-lines files to draw prompts from; with --recipe, the folder of its files", nargs="+")
    add("recipe", Path, "draw prompts as the last stage of this recipe does")
    add("output_dir", Path, "run folder: answers.jsonl, model/, curves, state", required=True)
    add("words", whole(1), "most words of a passage, without --recipe", metavar="N")
    add("answers", whole(1), "prompts drawn", metavar="N")
    add("reference_share", share, "of them that keep the reference instead of the teacher's answer", metavar="SHARE")
    add("logit_weight", zero_or_more, "of the teacher's distributions; 0: its answers alone", metavar="WEIGHT")
    add("choice_weight", zero_or_more, "of choosing the sentence; for models with circuits", metavar="WEIGHT")
    add("temperature", above_zero, "of the distributions", metavar="T")
    add("max_train_steps", whole(1), "steps", metavar="N")
    add("tokens", whole(64), "tokens of a batch, padding included", metavar="N")
    add("learning_rate", above_zero, "the highest", metavar="RATE")
    add("num_warmup_steps", whole(0), "steps in which it rises", metavar="N")
    add("seed", int, "of draws and order", metavar="N")
    add("precision", str, "auto is bf16 where the machine multiplies in it", choices=("auto", "bf16", "fp32"))
    add("logging_steps", whole(1), "a line of the curves each N steps", metavar="N")
    add("state_steps", whole(1), "write the resumable state each N steps", metavar="N")
    given = vars(parser.parse_args(arguments))
    options = Options(**(given | {"data": tuple(given["data"])}))
    if not options.data and not options.recipe:
        parser.error("say what to draw prompts from: --data FILE.jsonl ... or --recipe FILE.yaml")
    return options
