"""THE generation parameters: names, defaults, bounds and meaning, for the gateway, the handler and training.

Names follow GODEL's published usage. Both lengths count new tokens: the decoder's start token is not one.
"""

import dataclasses
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

MAX_PROBLEMS: Final = 20
"""Enough to name each parameter once. A body can hold a hundred thousand unknown names, and each costs time."""


class ParameterError(ValueError):
    """One or more generation parameters are wrong; `problems` maps each bad one's name to what is wrong."""

    def __init__(self, problems: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{name}: {problem}" for name, problem in problems.items()))
        self.problems: Final = dict(problems)


@dataclass(frozen=True, slots=True)
class Bounds:
    """The closed range of a parameter, and what it does, in one sentence."""

    minimum: float
    maximum: float
    meaning: str


def _parameter(default: object, minimum: float, maximum: float, meaning: str) -> Any:
    return field(default=default, metadata={"bounds": Bounds(minimum, maximum, meaning)})


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationParameters:
    """How one answer is decoded. Build it with `from_mapping`, which checks every bound."""

    max_length: int = _parameter(128, 1, 512, "Most new tokens in the answer.")
    min_length: int = _parameter(8, 0, 512, "New tokens before the answer may end.")
    do_sample: bool = _parameter(True, 0, 1, "Draw each token from its distribution; false takes the likeliest.")
    temperature: float = _parameter(1.0, 0.05, 5.0, "Divides the logits before sampling; below 1 is more cautious.")
    top_p: float = _parameter(0.9, 0.01, 1.0, "Sample from the smallest set of tokens with at least this mass.")
    top_k: int = _parameter(0, 0, 1000, "Sample from this many likeliest tokens; 0 sets no limit.")
    num_beams: int = _parameter(1, 1, 8, "Beams searched, where the served engine has beam search; 1 is none.")
    repetition_penalty: float = _parameter(1.0, 1.0, 5.0, "Divides the score of tokens already in the answer.")
    no_repeat_ngram_size: int = _parameter(0, 0, 16, "No run of this many tokens occurs twice; 0 allows it.")
    seed: int | None = _parameter(None, 0, 2**53 - 1, "Makes sampling repeatable; drawn afresh when absent.")

    @classmethod
    def bounds(cls) -> dict[str, Bounds]:
        """Return the bounds of every parameter by name."""
        return {name: item.metadata["bounds"] for name, item in _FIELDS.items()}

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> Self:
        """Return the parameters given by `values`, defaults for the rest: those of a model first, which are good ones.

        Raises ParameterError with one problem for each bad value or unknown name, MAX_PROBLEMS at most.
        `min_length` larger than `max_length` is an error only when both are given; a default gives way.
        """
        problems: dict[str, str] = {}
        for name, value in values.items():
            if name not in _FIELDS:
                close = difflib.get_close_matches(name, _FIELDS, n=1)
                hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(_FIELDS)}"
                problems[name[:64]] = f"is not a generation parameter; {hint}"
            elif problem := _problem(_FIELDS[name], value):
                problems[name] = problem
            if len(problems) == MAX_PROBLEMS:
                break
        if problems:
            raise ParameterError(problems)
        chosen: dict[str, Any] = {
            name: float(value) if isinstance(_FIELDS[name].default, float) else value
            for name, value in {**(defaults or {}), **values}.items()
        }
        parameters = cls(**chosen)
        if parameters.min_length > parameters.max_length:
            if "min_length" in values:
                raise ParameterError(
                    {"min_length": f"is {parameters.min_length}, more than max_length {parameters.max_length}"}
                )
            parameters = dataclasses.replace(parameters, min_length=parameters.max_length)
        return parameters

    def to_mapping(self) -> dict[str, int | float | bool | None]:
        """Return all parameters by name; `from_mapping` of it gives an equal object."""
        return {name: getattr(self, name) for name in _FIELDS}


_FIELDS: Final = {item.name: item for item in dataclasses.fields(GenerationParameters)}


def _problem(item: "dataclasses.Field[Any]", value: object) -> str | None:
    """Return what is wrong with `value` for the parameter `item`, or None."""
    default, bounds = item.default, item.metadata["bounds"]
    if isinstance(default, bool):
        return None if isinstance(value, bool) else f"must be true or false, not {_shown(value)}"
    if value is None and default is None:
        return None
    whole = not isinstance(default, float)
    infinite = isinstance(value, float) and not math.isfinite(value)
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or infinite:
        return f"must be {'a whole' if whole else 'a finite'} number, not {_shown(value)}"
    if not bounds.minimum <= value <= bounds.maximum:
        lowest, highest = (str(int(bound)) if whole else f"{bound:g}" for bound in (bounds.minimum, bounds.maximum))
        return f"must be from {lowest} to {highest}, not {_shown(value)}"
    return None


def _shown(value: object) -> str:
    """Return a number as it is, and of anything else what kind it is: a text could be somebody's message."""
    if isinstance(value, bool | int | float | None):
        text = repr(value) if not isinstance(value, int) or abs(value) < 10**36 else "a number beyond all bounds"
        return {"None": "null", "True": "true", "False": "false"}.get(text, text)
    kinds: dict[type, str] = {str: "text", list: "a list", dict: "an object"}
    return kinds.get(type(value), type(value).__name__)
