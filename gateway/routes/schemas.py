"""The JSON that clients send and get. The generation parameters are taken from the contract, field by field."""

import dataclasses
from datetime import datetime
from typing import Annotated, Any, Final, Literal, Self, TypeVar

from fastapi import Path
from pydantic import BaseModel, ConfigDict, FailFast, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from gateway.bots import BOT_ID, LIMITS, MAX_INSTRUCTION_CHARACTERS, MAX_LIMIT, MAX_NAME_CHARACTERS, Bot, BotEntry
from gateway.chat import Answer
from gateway.conversations import Exchange, Session, by_turns
from gateway.errors import InvalidInput
from gateway.inference import ModelDescription, RoutedReply
from handler.contract.generation import GenerationParameters
from handler.contract.prompt import DEFAULT_INSTRUCTION, DEFAULT_INSTRUCTION_WITHOUT_KNOWLEDGE, INSTRUCTIONS
from handler.contract.wire import FinishReason


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

_KNOWLEDGE = "Cricket is a popular sport that is played between two teams of eleven players each."
_REQUEST_ID = "0f8fad5bd9cb469fa16570867728950e"
_SESSION_ID = "019ab4c3e1f07b1d9c2e4a5f60718293a4b5"
_NAMED_INSTRUCTIONS = ", ".join(f"`{name}`" for name in INSTRUCTIONS)


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


class _BotFields(Input):
    name: str = Field(default="", max_length=MAX_NAME_CHARACTERS, examples=["Cricket for beginners"])
    """What people call it."""
    knowledge: str = Field(default="", examples=[_KNOWLEDGE])
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
    knowledge_characters: int = Field(examples=[len(_KNOWLEDGE)])
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
    knowledge: str = Field(examples=[_KNOWLEDGE])
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
    characters: int = Field(examples=[len(_KNOWLEDGE)])
    tokens: int = Field(examples=[18])
    """As the served model counts them, all of it at once."""
    passages: int = Field(examples=[1])
    """What is searched when not all of it fits into a prompt."""


class BotList(Output):
    """One page of bots, in the order of their names."""

    bots: list[BotSummary]
    next_after: str | None = Field(examples=[None])
    """Ask for `?after=` this to get the next page; null on the last."""


class SaidMessage(Input):
    """One message of a dialogue."""

    role: Literal["user", "assistant"] = Field(examples=["user"])
    content: str = Field(examples=["How many players are in a team?"])


class ChatInput(Input):
    """What is said to a bot: one `message`, or a whole dialogue as `messages`."""

    message: str | None = Field(default=None, examples=["How many players are in a team?"])
    messages: Several[SaidMessage] | None = Field(default=None, examples=[None])
    """A dialogue that the client keeps itself, the newest message last, a user's."""
    session_id: str | None = Field(default=None, max_length=64, examples=[None])
    """The session that `message` belongs to: the bot knows what was said in it, and remembers the answer."""
    parameters: Parameters = Field(default={}, examples=[{"do_sample": False}])
    """Parameters for this answer alone; they win over the bot's own."""
    stream: bool = False
    """Send the answer as events while it is made."""

    @property
    def turns(self) -> list[str]:
        """What was said, by turns. Raises InvalidInput when it is not clear what the bot shall answer."""
        problems = {}
        if (self.message is None) == (self.messages is None):
            problems["message"] = "is needed, or messages in its place, and not both"
        elif self.messages is not None and (not self.messages or self.messages[-1].role != "user"):
            problems["messages"] = "must end with a message of the user"
        if self.messages is not None and self.session_id is not None:
            problems["session_id"] = "goes with message: the session holds the dialogue itself"
        if problems:
            raise InvalidInput.of(problems)
        if self.message is not None:
            return [self.message]
        return by_turns([(said.role, said.content) for said in self.messages or ()])


class ChatPart(Output):
    """A part of a streamed answer."""

    text: str = Field(examples=["There are eleven"])


class Usage(Output):
    """Tokens, as the model counts them."""

    prompt_tokens: int = Field(examples=[71])
    completion_tokens: int = Field(examples=[12])


class Timing(Output):
    """Where the time went."""

    queue_ms: float = Field(examples=[3.1])
    """Waiting for the model."""
    compute_ms: float = Field(examples=[240.5])
    """In the model."""
    batch_size: int = Field(examples=[4])
    """The most requests that were computed together with this one, itself included."""


class PassageOutput(Output):
    """A passage of the bot's knowledge that the answer could draw on: `knowledge[start:end]`."""

    start: int = Field(examples=[0])
    end: int = Field(examples=[len(_KNOWLEDGE)])
    """Offsets count characters (Unicode code points)."""
    score: float | None = Field(examples=[None])
    """How well it matches (BM25); null when all of the knowledge fits and nothing was searched."""


class LeftOut(Output):
    """What did not fit into the prompt."""

    turns: int = Field(examples=[0])
    knowledge_characters: int = Field(examples=[0])
    message_characters: int = Field(examples=[0])


class ChatOutput(Output):
    """A bot's answer."""

    response: str = Field(examples=["There are eleven players in each team."])
    finish_reason: FinishReason = Field(examples=["stop"])
    """`stop`: the answer is complete; `length`: `max_length` cut it; `deadline`: time ran out."""
    usage: Usage
    timing: Timing
    passages: list[PassageOutput]
    left_out: LeftOut
    request_id: str = Field(examples=[_REQUEST_ID])
    deployment: str | None = Field(examples=["default"])
    """Which of the versions of the model answered."""

    @classmethod
    def of(cls, answer: Answer, request_id: str) -> Self:
        """Return `answer` as clients see it."""
        reply, prompt = answer.reply, answer.prompt
        return cls(
            response=reply.text,
            finish_reason=reply.finish_reason,
            usage=Usage(prompt_tokens=reply.prompt_tokens, completion_tokens=reply.completion_tokens),
            timing=Timing(queue_ms=reply.queue_ms, compute_ms=reply.compute_ms, batch_size=reply.batch_size),
            passages=[
                PassageOutput(start=found.span.start, end=found.span.end, score=found.score)
                for found in prompt.passages
            ],
            left_out=LeftOut(
                turns=prompt.turns_dropped,
                knowledge_characters=prompt.knowledge_characters_dropped,
                message_characters=prompt.message_characters_dropped,
            ),
            request_id=request_id,
            deployment=reply.deployment if isinstance(reply, RoutedReply) else None,
        )


class SessionOutput(Output):
    """A conversation with a bot."""

    session_id: str = Field(examples=[_SESSION_ID])
    bot_id: str = Field(examples=["cricket"])
    created_at: datetime
    updated_at: datetime
    """When something was last said."""
    exchanges: int = Field(examples=[1])
    """How many messages were answered in it."""

    @classmethod
    def of(cls, session: Session) -> Self:
        """Return `session` as clients see it."""
        return cls.model_validate(dataclasses.asdict(session))


class SessionList(Output):
    """One page of sessions, the newest first."""

    sessions: list[SessionOutput]
    next_after: str | None = Field(examples=[None])
    """Ask for `?after=` this to get the next page; null on the last."""


class TurnOutput(Output):
    """A message and the bot's answer."""

    number: int = Field(examples=[1])
    message: str = Field(examples=["How many players are in a team?"])
    response: str = Field(examples=["There are eleven players in each team."])
    created_at: datetime

    @classmethod
    def of(cls, exchange: Exchange) -> Self:
        """Return `exchange` as clients see it."""
        return cls.model_validate(dataclasses.asdict(exchange))


class SessionWithTurns(SessionOutput):
    """A conversation and one page of what was said in it, the oldest first."""

    turns: list[TurnOutput]
    next_after: int | None = Field(examples=[None])
    """Ask for `?after=` this to get the next page; null on the last."""


class SeedOutput(Output):
    """The reply of the two short addresses."""

    response: str = Field(examples=["There are eleven players in each team."])


class WorkerOutput(Output):
    """A process that runs the model."""

    status: str = Field(examples=["READY"])
    pid: int | None = Field(examples=[4711])


class QueueOutput(Output):
    """The model's queue."""

    capacity: int | None = Field(examples=[64])
    """How many more requests it takes."""
    pending: int | None = Field(examples=[0])
    """How many requests wait in it."""


class DeploymentShare(Output):
    """One of the versions of the model that are served."""

    name: str = Field(examples=["default"])
    weight: int = Field(examples=[100])
    """Percent of the requests."""
    version: str | None = Field(examples=["1.0"])
    instances: int = Field(examples=[1])
    """How many servers run it."""
    live: int = Field(examples=[1])
    """How many of them are asked just now."""


class ModelOutput(Output):
    """The model that answers, of several versions that with the greatest share; null where the server does not say."""

    name: str = Field(examples=["godel"])
    version: str | None = Field(examples=["1.0"])
    engine: str | None = Field(examples=["torch"])
    precision: str | None = Field(examples=["fp32"])
    device: str | None = Field(examples=["cpu"])
    device_note: str | None = Field(examples=[None])
    """Why the device is not the one that was asked for."""
    slots: int | None = Field(examples=[8])
    """Most requests answered at the same time."""
    max_prompt_tokens: int | None = Field(examples=[512])
    max_new_tokens: int | None = Field(examples=[256])
    workers: list[WorkerOutput]
    queue: QueueOutput
    deployments: list[DeploymentShare]
    """All versions that are served."""

    @classmethod
    def of(cls, model: ModelDescription) -> Self:
        """Return `model` as clients see it."""
        queue = {"capacity": model.queue_capacity, "pending": model.queue_pending}
        return cls.model_validate(dataclasses.asdict(model) | {"queue": queue})


class Health(Output):
    """The process is alive, or ready."""

    status: str = Field(examples=["ok"])
