"""A question to a bot becomes a prompt, the prompt an answer: whole, or in parts as it is made."""

import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

import anyio.to_thread

from gateway.bots import is_blank, parameter_problems, text_problem
from gateway.conversations import Conversations
from gateway.errors import InvalidInput, ModelTimeout
from gateway.inference import Inference
from gateway.prompting import BuiltPrompt, PromptBuilder
from gateway.store.port import BotStore
from handler.contract.generation import GenerationParameters
from handler.contract.wire import GenerateReply, GenerateRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What somebody says to a bot."""

    bot_id: str
    turns: Sequence[str]
    """What was said by turns, the oldest first; the last is what wants an answer."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """They win over the bot's own."""
    request_id: str
    knowledge: str | None = None
    """What the bot knows for this answer; None is what it knows anyway."""
    session_id: str | None = None
    """The session that goes on with this; what was said in it comes before `turns`."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said, and the prompt it was asked with."""

    reply: GenerateReply
    prompt: BuiltPrompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """Answers messages; sessions are the only memory of them."""

    store: BotStore
    inference: Inference
    conversations: Conversations
    prompts: PromptBuilder
    timeout: float
    max_message_characters: int
    max_knowledge_characters: int
    clock: Callable[[], float] = time.time
    answered: Callable[[str], None] = lambda _: None
    """Told of every answer: the bot's id."""

    async def answer(self, question: Question) -> Answer:
        """Return the bot's answer.

        Raises InvalidInput, BotNotFound, SessionNotFound, PromptTooLong, StoreUnavailable or a ModelError; the
        session is then as it was.
        """
        request, prompt = await self._prepare(question, stream=False)
        return await self._conclude(question, Answer(await self.inference.generate(request), prompt))

    async def stream(self, question: Question) -> AsyncGenerator[str | Answer, None]:
        """Yield the bot's answer in parts as they are made, last the whole of it. Raises as `answer`."""
        request, prompt = await self._prepare(question, stream=True)
        async with aclosing(self.inference.stream(request)) as parts:
            async for part in parts:
                yield part if isinstance(part, str) else await self._conclude(question, Answer(part, prompt))

    async def _conclude(self, question: Question, answer: Answer) -> Answer:
        """Return `answer` when it is one, remembered in the question's session."""
        if answer.reply.finish_reason == "deadline" and not answer.reply.text:
            raise ModelTimeout("the deadline passed before the model had a word of its answer")
        if question.session_id is not None:
            said = question.turns[-1], answer.reply.text
            await self.conversations.remember(question.bot_id, question.session_id, *said)
        self.answered(question.bot_id)
        return answer

    async def _prepare(self, question: Question, *, stream: bool) -> tuple[GenerateRequest, BuiltPrompt]:
        submitted = self.clock()
        self._check(question)
        bot = await self.store.get(question.bot_id)
        if question.knowledge is not None:
            bot = replace(bot, knowledge=question.knowledge)
        turns = list(question.turns)
        if question.session_id is not None:
            turns = await self.conversations.turns(question.bot_id, question.session_id) + turns
        parameters = {**bot.parameters, **question.parameters}
        if problems := parameter_problems(parameters):  # each part was right, together they may not be
            raise InvalidInput.of(problems)
        # Counting the tokens of a long text takes a while; other requests go on meanwhile.
        prompt = await anyio.to_thread.run_sync(self.prompts.build, bot, turns)
        request = GenerateRequest(
            prompt=prompt.text,
            request_id=question.request_id,
            parameters=GenerationParameters.from_mapping(parameters),
            submitted_at=self.clock(),
            deadline=submitted + self.timeout,
            stream=stream,
        )
        return request, prompt

    def _check(self, question: Question) -> None:
        *earlier, message = question.turns
        problems = {
            f"messages.{number}": text_problem(turn, self.max_message_characters) for number, turn in enumerate(earlier)
        }
        problems["message"] = text_problem(message, self.max_message_characters)
        if problems["message"] is None and is_blank(message):
            problems["message"] = "must not be blank"
        if question.knowledge is not None:
            problems["knowledge"] = text_problem(question.knowledge, self.max_knowledge_characters)
        found = {name: problem for name, problem in problems.items() if problem}
        found |= parameter_problems(question.parameters)
        if found:
            raise InvalidInput.of(found)
