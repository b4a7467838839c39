"""The JSON of bots and of what they know."""

import dataclasses
from datetime import datetime
from typing import Self

from pydantic import Field

from gateway.bots import MAX_INSTRUCTION_CHARACTERS, MAX_NAME_CHARACTERS, Bot, BotEntry
from gateway.routes.schemas import EXAMPLE_KNOWLEDGE, Input, Limits, Output, Parameters
from handler.contract.prompt import DEFAULT_INSTRUCTION, DEFAULT_INSTRUCTION_WITHOUT_KNOWLEDGE, INSTRUCTIONS

_NAMED_INSTRUCTIONS = ", ".join(f"`{name}`" for name in INSTRUCTIONS)


class _BotFields(Input):
    name: str = Field(default="", max_length=MAX_NAME_CHARACTERS, examples=["Cricket for beginners"])
    """What people call it."""
    knowledge: str = Field(default="", examples=[EXAMPLE_KNOWLEDGE])
    """The passage it answers from."""
    instruction: str | None = Field(
        default=None,
        examples=[DEFAULT_INSTRUCTION],
        description=f"{_NAMED_INSTRUCTIONS}, or a text of your own of at most {MAX_INSTRUCTION_CHARACTERS} characters."
        f" Null means `{DEFAULT_INSTRUCTION}` with knowledge and `{DEFAULT_INSTRUCTION_WITHOUT_KNOWLEDGE}` without.",
    )
    parameters: Parameters = Field(default={}, examples=[{"max_length": 64, "do_sample": False}])
    """How its answers are generated, where not by default."""
    limits: Limits = Field(default={}, examples=[{"requests_per_minute": 60}])
    """What all its users together may ask of it."""


class BotInput(_BotFields):
    """A bot as it shall be."""


class NewBotInput(_BotFields):
    """A bot to create."""

    bot_id: str | None = Field(default=None, examples=["cricket"])
    """Its name in addresses; one is made when it is left out."""


class BotPatch(_BotFields):
    """Those parts of a bot that shall change."""


class BotSummary(Output):
    """A bot without its knowledge."""

    bot_id: str = Field(examples=["cricket"])
    name: str = Field(examples=["Cricket for beginners"])
    instruction: str | None = Field(examples=[DEFAULT_INSTRUCTION])
    knowledge_characters: int = Field(examples=[len(EXAMPLE_KNOWLEDGE)])
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, bot: BotEntry) -> Self:
        """Return `bot` as a list shows it."""
        return cls.model_validate(dataclasses.asdict(bot))


class BotOutput(Output):
    """A bot."""

    bot_id: str = Field(examples=["cricket"])
    name: str = Field(examples=["Cricket for beginners"])
    knowledge: str = Field(examples=[EXAMPLE_KNOWLEDGE])
    instruction: str | None = Field(examples=[DEFAULT_INSTRUCTION])
    parameters: Parameters = Field(examples=[{"max_length": 64, "do_sample": False}])
    limits: Limits = Field(examples=[{"requests_per_minute": 60}])
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, bot: Bot) -> Self:
        """Return `bot` as clients see it."""
        return cls.model_validate(dataclasses.asdict(bot))


class KnowledgeOutput(Output):
    """How much a bot knows."""

    bot_id: str = Field(examples=["cricket"])
    characters: int = Field(examples=[len(EXAMPLE_KNOWLEDGE)])
    tokens: int = Field(examples=[18])
    """As the served model counts them, all of it at once."""
    passages: int = Field(examples=[1])
    """What is searched when not all of it fits into a prompt."""


class BotList(Output):
    """One page of bots, in the order of their names."""

    bots: list[BotSummary]
    next_after: str | None = Field(examples=[None])
    """Ask for `?after=` this to get the next page; null on the last."""
