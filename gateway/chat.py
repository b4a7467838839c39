"""A question to a bot becomes a prompt, the prompt an answer: whole, or in parts as it is made."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

import anyio.to_thread

from gateway.admission import Admission
from gateway.bots import Bot, generation_parameters, is_blank, parameter_problems, text_problem
from gateway.conversations import Conversations
from gateway.errors import InvalidInput, ModelTimeout
from gateway.inference import Inference
from gateway.keys import Caller
from gateway.limits import RateLimits, Standing
from gateway.moderation import Moderator
from gateway.prompting import BuiltPrompt, PromptBuilder
from gateway.stop_sequences import StopSequences
from gateway.store.port import BotStore
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
    caller: Caller
    limited: Callable[[Standing], None] = lambda _: None
    """Told how the limits stand that this question counts against."""
    knowledge: str | None = None
    """What the bot knows for this answer; None is what it knows anyway."""
    session_id: str | None = None
    """The session that goes on with this; what was said in it comes before `turns`."""
    stop: Sequence[str] = ()
    """The answer ends before the first of these."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said, and the prompt it was asked with."""

    reply: GenerateReply
    prompt: BuiltPrompt


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question that is ready for the model."""

    bot: Bot
    request: GenerateRequest
    prompt: BuiltPrompt
    deadline: float


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
    limits: RateLimits
    admission: Admission
    moderator: Moderator | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """The served model's own, for what neither bot nor question says."""
    clock: Callable[[], float] = time.time
    answered: Callable[[str], None] = lambda _: None
    """Told of every answer: the bot's id."""

    async def answer(self, question: Question) -> Answer:
        """Return the bot's answer.

        Raises InvalidInput, BotNotFound, SessionNotFound, SessionFull, PromptTooLong, RateLimited, QueueFull,
        BotQueueFull, ContentRefused, StoreUnavailable or a ModelError; the session is then as it was.
        """
        asked = await self._prepare(question, stream=False)
        async with self.admission.place(question.bot_id, asked.deadline):
            try:
                reply = await self.inference.generate(asked.request)
            except asyncio.CancelledError:
                await self._count_unheard(question, asked, [])
                raise
        return await self._conclude(question, asked, reply)

    async def stream(self, question: Question) -> AsyncGenerator[str | Answer, None]:
        """Yield the bot's answer in parts as they are made, last the whole of it. Raises as `answer`.

        With a moderator the parts are one, sent when it has been checked.
        """
        asked = await self._prepare(question, stream=True)
        end, said = StopSequences(question.stop), list[str]()
        async with self.admission.place(question.bot_id, asked.deadline):
            try:
                async with aclosing(self.inference.stream(asked.request)) as parts:
                    answer: Answer | None = None
                    async for part in parts:
                        if isinstance(part, str):
                            said.append(part)
                            text = end.pass_on(part)
                        else:
                            text, answer = end.rest(), await self._conclude(question, asked, part)
                        if self.moderator is not None:
                            text = answer.reply.text if answer else ""
                        if text:
                            yield text
                        if answer:
                            yield answer
            except (asyncio.CancelledError, GeneratorExit):
                await self._count_unheard(question, asked, said)
                raise

    async def _count_unheard(self, question: Question, asked: "_Asked", said: Sequence[str]) -> None:
        """Count the tokens of a question, and of what was `said`, whose client left before the answer was whole."""
        tokens = asked.prompt.tokens + (self.prompts.count_tokens("".join(said)) if said else 0)
        await self.limits.spend(question.caller, asked.bot, tokens)

    async def _conclude(self, question: Question, asked: "_Asked", reply: GenerateReply) -> Answer:
        """Return the answer when `reply` is one: counted, checked, and remembered in the question's session."""
        await self.limits.spend(question.caller, asked.bot, reply.prompt_tokens + reply.completion_tokens)
        if reply.finish_reason == "deadline" and not reply.text:
            raise ModelTimeout("the deadline passed before the model had a word of its answer")
        end = StopSequences(question.stop)
        text = end.pass_on(reply.text) + end.rest()
        if end.found:
            reply = replace(reply, text=text, finish_reason="stop")
        if self.moderator is not None:
            reply = replace(reply, text=await self.moderator.check_answer(question.bot_id, reply.text))
        if question.session_id is not None:
            await self.conversations.remember(question.bot_id, question.session_id, question.turns[-1], reply.text)
        self.answered(question.bot_id)
        return Answer(reply, asked.prompt)

    async def _prepare(self, question: Question, *, stream: bool) -> "_Asked":
        submitted = self.clock()
        self.admission.check(question.bot_id)
        self._check(question)
        bot = await self.store.get(question.bot_id)
        standing = await self.limits.admit(question.caller, bot)
        if standing is not None:
            question.limited(standing)
        if self.moderator is not None:
            brought = [*question.turns] if question.knowledge is None else [question.knowledge, *question.turns]
            await self.moderator.check_question(question.bot_id, "\n".join(brought))
        if question.knowledge is not None:
            bot = replace(bot, knowledge=question.knowledge)
        turns, unread = list(question.turns), 0
        if question.session_id is not None:
            earlier, unread = await self.conversations.turns(question.bot_id, question.session_id)
            turns = earlier + turns
        # Each part was right, together they may not be.
        parameters = generation_parameters({**bot.parameters, **question.parameters}, self.defaults)
        if self.prompts.is_quick(bot, turns):
            prompt = self.prompts.build(bot, turns, unread)
        else:  # counting the tokens of a long text takes a while; other requests go on meanwhile
            prompt = await anyio.to_thread.run_sync(self.prompts.build, bot, turns, unread)
        request = GenerateRequest(
            prompt=prompt.text,
            request_id=question.request_id,
            parameters=parameters,
            submitted_at=self.clock(),
            deadline=submitted + self.timeout,
            stream=stream,
        )
        return _Asked(bot, request, prompt, submitted + self.timeout)

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
