"""What all JSON of clients shares. The generation parameters are taken from the contract, field by field."""

import dataclasses
from typing import Annotated, Any, Final, TypeVar

from fastapi import Path, Query
from pydantic import BaseModel, ConfigDict, FailFast, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from gateway.bots import BOT_ID, LIMITS, MAX_LIMIT
from handler.contract.generation import GenerationParameters


def _parameters_schema() -> dict[str, Any]:
    """Return the JSON schema of the contract's generation parameters; the contract itself validates them."""
    properties: dict[str, Any] = {}
    for item in dataclasses.fields(GenerationParameters):
        bounds, default = item.metadata["bounds"], item.default
        shape: dict[str, Any] = {"type": "boolean"}
        if not isinstance(default, bool):
            number = float if isinstance(default, float) else int
            kind = "number" if number is float else "integer"
            shape = {"type": kind if default is not None else [kind, "null"]}
            shape |= {"minimum": number(bounds.minimum), "maximum": number(bounds.maximum)}
        properties[item.name] = shape | {"default": default, "description": bounds.meaning}
    return {"type": "object", "additionalProperties": False, "properties": properties}


MAX_FIELDS: Final = 64

_Item = TypeVar("_Item")


class _FirstOnly(FailFast):
    """FailFast itself cannot be part of a union, for which it would have to be hashable."""

    __hash__ = object.__hash__


Several = Annotated[list[_Item], _FirstOnly()]
"""A list of which the first bad item is named, and no other."""

WITHOUT_NUL: Final = r"^[^\x00]*$"
"""What an id or a cursor may be made of: PostgreSQL holds no NUL, so it cannot be asked for one."""

After = Annotated[str, Query(max_length=64, pattern=WITHOUT_NUL, description="The `next_after` of the page before.")]
BotId = Annotated[str, Path(description=f"The bot's name: `{BOT_ID.pattern}`.", examples=["cricket"])]
Limits = Annotated[
    dict[str, Any],
    WithJsonSchema(
        {
            "type": "object",
            "additionalProperties": False,
            "properties": {name: {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT} for name in LIMITS},
        }
    ),
]
Parameters = Annotated[dict[str, Any], WithJsonSchema(_parameters_schema())]

EXAMPLE_KNOWLEDGE: Final = "Cricket is a popular sport that is played between two teams of eleven players each."
"""What the examples tell a bot."""


class Bounded(BaseModel):
    """What clients send, with no more fields than anybody means: to name a hundred thousand wrong ones takes a minute.

    Its lists are of `Several`, for the same reason.
    """

    @model_validator(mode="before")
    @classmethod
    def _check_size(cls, value: object) -> object:
        if isinstance(value, dict) and len(value) > MAX_FIELDS:
            raise PydanticCustomError("too_many_fields", "has more than {most} fields", {"most": MAX_FIELDS})
        return value


class Input(Bounded):
    """What clients send: no field that is not known, no value of another type."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)


class Output(BaseModel):
    """What clients get."""

    model_config = ConfigDict(use_attribute_docstrings=True)
