"""The JSON of what is said to a bot and what it answers."""

from typing import Literal, Self

from pydantic import Field

from gateway.chat import Answer
from gateway.conversations import by_turns
from gateway.errors import InvalidInput
from gateway.inference import RoutedReply
from gateway.routes.schemas import EXAMPLE_KNOWLEDGE, WITHOUT_NUL, Input, Output, Parameters, Several
from handler.contract.wire import FinishReason

_REQUEST_ID = "0f8fad5bd9cb469fa16570867728950e"


class SaidMessage(Input):
    """One message of a dialogue."""

    role: Literal["user", "assistant"] = Field(examples=["user"])
    content: str = Field(examples=["How many players are in a team?"])


class ChatInput(Input):
    """What is said to a bot: one `message`, or a whole dialogue as `messages`."""

    message: str | None = Field(default=None, examples=["How many players are in a team?"])
    messages: Several[SaidMessage] | None = Field(default=None, examples=[None])
    """A dialogue that the client keeps itself, the newest message last, a user's."""
    session_id: str | None = Field(default=None, max_length=64, pattern=WITHOUT_NUL, examples=[None])
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
    end: int = Field(examples=[len(EXAMPLE_KNOWLEDGE)])
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


class SeedOutput(Output):
    """The reply of the two short addresses."""

    response: str = Field(examples=["There are eleven players in each team."])
