"""The JSON of OpenAI's chat completions, as far as a bot can mean it. The rest is refused by name."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from gateway.bots import Bot, BotEntry
from gateway.chat import Answer
from gateway.conversations import by_turns
from gateway.errors import InvalidInput
from gateway.routes.schemas import Bounded, Several
from handler.contract.generation import MAX_PROBLEMS
from handler.contract.wire import FinishReason

_WITHOUT_EFFECT: Final[dict[str, tuple[JsonValue, ...]]] = {
    "n": (1,),
    "logprobs": (False,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
    "store": (False,),
}
"""What clients send though they want nothing of it. Null is as good as absent for all of them."""

_OF_MESSAGES: Final[dict[str, tuple[JsonValue, ...]]] = {"annotations": ([],), "tool_calls": ([],)}
"""The same of messages, as answers of OpenAI's are sent back."""

_OF_STREAMS: Final[dict[str, tuple[JsonValue, ...]]] = {"include_obfuscation": (False,)}

MAX_STOPS: Final = 4
MAX_STOP_CHARACTERS: Final = 256

_IGNORED: Final = frozenset({"user", "metadata", "safety_identifier", "prompt_cache_key"})
"""Notes to the provider that change no answer."""


class _Lenient(Bounded):
    """Extra fields are looked at by `CompletionInput`, so that each can be refused by name."""

    model_config = ConfigDict(extra="allow", strict=True, use_attribute_docstrings=True)

    def unsupported(self, without_effect: Mapping[str, Sequence[JsonValue]], place: str = "") -> Iterator[str]:
        """Yield the names, after `place`, of extra fields whose values ask for something."""
        for name, value in (self.model_extra or {}).items():
            if value is not None and value not in without_effect.get(name, ()):
                yield place + name


class TextContent(_Lenient):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(_Lenient):
    """One message of the dialogue. `system` (or `developer`) is the bot's knowledge for this call."""

    role: Literal["system", "developer", "user", "assistant"] = Field(examples=["user"])
    content: str | Several[TextContent] = Field(examples=["How many players are in a team?"])

    @property
    def text(self) -> str:
        """The content in one piece."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class StreamOptions(_Lenient):
    """What a stream carries beside the text."""

    include_usage: bool = False
    """Send a last chunk with the token counts."""


class CompletionInput(_Lenient):
    """A dialogue that a bot shall continue."""

    model: str = Field(examples=["cricket"])
    """The bot."""
    messages: Annotated[Several[Message], Field(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_completion_tokens: int | None = Field(default=None, examples=[64])
    """Most new tokens in the answer."""
    max_tokens: int | None = None
    """The older name of `max_completion_tokens`."""
    temperature: float | None = None
    """0 takes the likeliest token each time; more samples."""
    top_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = Field(default=None, examples=[None])
    """Up to four texts; the answer ends before the first of them."""

    def check(self) -> None:
        """Raise InvalidInput naming every field that would have to change the answer but cannot."""
        problems = dict.fromkeys(islice(self._unsupported(), MAX_PROBLEMS), "is not supported")
        if self.messages[-1].role != "user":
            problems["messages"] = "must end with a message of the user"
        if len(self.stops) > MAX_STOPS or not all(0 < len(text) <= MAX_STOP_CHARACTERS for text in self.stops):
            problems["stop"] = f"must be up to {MAX_STOPS} texts of 1 to {MAX_STOP_CHARACTERS} characters"
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            problems["max_tokens"] = "is the older name of max_completion_tokens; give one of them"
        if problems:
            raise InvalidInput.of(problems)

    def _unsupported(self) -> Iterator[str]:
        yield from (name for name in self.unsupported(_WITHOUT_EFFECT) if name not in _IGNORED)
        if self.stream_options is not None:
            yield from self.stream_options.unsupported(_OF_STREAMS, "stream_options.")
        for number, message in enumerate(self.messages):
            yield from message.unsupported(_OF_MESSAGES, f"messages.{number}.")
            for place, part in enumerate(message.content if isinstance(message.content, list) else ()):
                yield from part.unsupported({}, f"messages.{number}.content.{place}.")

    @property
    def turns(self) -> list[str]:
        """The dialogue by turns."""
        spoken = [message for message in self.messages if message.role not in ("system", "developer")]
        return by_turns([(message.role, message.text) for message in spoken])

    @property
    def stops(self) -> list[str]:
        """The texts before which the answer ends."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def knowledge(self) -> str | None:
        """What the system messages say, or None without any."""
        said = [message.text for message in self.messages if message.role in ("system", "developer")]
        return "\n\n".join(said) if said else None

    @property
    def parameters(self) -> dict[str, Any]:
        """The generation parameters that are given, under the contract's names."""
        longest = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        named = {"max_length": longest, "top_p": self.top_p, "seed": self.seed}
        if self.temperature == 0:
            named["do_sample"] = False
        elif self.temperature is not None:
            named |= {"do_sample": True, "temperature": self.temperature}
        return {name: value for name, value in named.items() if value is not None}


FIELDS: Final = {
    "max_length": "max_completion_tokens",
    "message": "messages",
    "knowledge": "messages",
    "bot_id": "model",
}
"""What the gateway's own names are called here."""


class Said(BaseModel):
    """The bot's message."""

    role: Literal["assistant"] = "assistant"
    content: str = Field(examples=["There are eleven players in each team."])
    refusal: None = None


FinishName = Literal["stop", "length"]


def finish_name(reason: FinishReason) -> FinishName:
    """Return OpenAI's word for the end of an answer; one that ran out of time was cut, too."""
    return "stop" if reason == "stop" else "length"


class Choice(BaseModel):
    """The answer."""

    index: Literal[0] = 0
    message: Said
    logprobs: None = None
    finish_reason: FinishName


class CompletionUsage(BaseModel):
    """Tokens, as the model counts them."""

    prompt_tokens: int = Field(examples=[71])
    completion_tokens: int = Field(examples=[12])
    total_tokens: int = Field(examples=[83])

    @classmethod
    def of(cls, answer: Answer) -> "CompletionUsage":
        """Return what `answer` took."""
        prompt, new = answer.reply.prompt_tokens, answer.reply.completion_tokens
        return cls(prompt_tokens=prompt, completion_tokens=new, total_tokens=prompt + new)


class Completion(BaseModel):
    """An answer."""

    id: str = Field(examples=["chatcmpl-0f8fad5bd9cb469fa16570867728950e"])
    object: Literal["chat.completion"] = "chat.completion"
    created: int = Field(examples=[1764000000])
    model: str = Field(examples=["cricket"])
    choices: list[Choice]
    usage: CompletionUsage


class ModelCard(BaseModel):
    """A bot, as a model."""

    id: str = Field(examples=["cricket"])
    object: Literal["model"] = "model"
    created: int = Field(examples=[1764000000])
    owned_by: str = Field(default="godel-serve", examples=["godel-serve"])

    @classmethod
    def of(cls, bot: Bot | BotEntry) -> "ModelCard":
        """Return `bot` as a model."""
        return cls(id=bot.bot_id, created=int(bot.created_at.timestamp()))


class ModelList(BaseModel):
    """All bots, as models."""

    object: Literal["list"] = "list"
    data: list[ModelCard]
