"""A message to a bot becomes a prompt, the prompt an answer."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import anyio.to_thread

from gateway.bots import Bot, is_blank, parameter_problems, text_problem
from gateway.errors import InvalidInput, ModelTimeout, PromptTooLong
from gateway.inference import Inference
from gateway.store.port import Store
from gateway.tokens import CountTokens
from handler.contract.generation import GenerationParameters
from handler.contract.prompt import FittedPrompt, fit, neutralise
from handler.contract.wire import GenerateReply, GenerateRequest

CHARACTERS_PER_TOKEN = 32
"""More than any vocabulary's entry holds: what lies beyond budget x this cannot fit, so nobody counts it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said, and the prompt it was asked with."""

    reply: GenerateReply
    prompt: FittedPrompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """Answers messages; keeps no memory of them."""

    store: Store
    inference: Inference
    count_tokens: CountTokens
    budget: int
    timeout: float
    max_message_characters: int
    clock: Callable[[], float] = time.time

    async def answer(self, bot_id: str, message: str, overrides: Mapping[str, Any], request_id: str) -> Answer:
        """Return the bot's answer to one message.

        `overrides` win over the bot's own parameters. Raises InvalidInput, BotNotFound, PromptTooLong,
        StoreUnavailable or a ModelError.
        """
        submitted = self.clock()
        self._check(message, overrides)
        bot = await self.store.get(bot_id)
        parameters = {**bot.parameters, **overrides}
        if problems := parameter_problems(parameters):  # each part was right, together they may not be
            raise InvalidInput.of(problems)
        # Counting the tokens of a long text takes a while; other requests go on meanwhile.
        prompt = await anyio.to_thread.run_sync(self._prompt, bot, message)
        request = GenerateRequest(
            prompt=prompt.text,
            request_id=request_id,
            parameters=GenerationParameters.from_mapping(parameters),
            submitted_at=self.clock(),
            deadline=submitted + self.timeout,
        )
        reply = await self.inference.generate(request)
        if reply.finish_reason == "deadline" and not reply.text:
            raise ModelTimeout("the deadline passed before the model had a word of its answer")
        return Answer(reply, prompt)

    def _check(self, message: str, overrides: Mapping[str, Any]) -> None:
        problem = text_problem(message, self.max_message_characters)
        if problem is None and is_blank(message):
            problem = "must not be blank"
        found = ({"message": problem} if problem else {}) | parameter_problems(overrides)
        if found:
            raise InvalidInput.of(found)

    def _prompt(self, bot: Bot, message: str) -> FittedPrompt:
        reach = self.budget * CHARACTERS_PER_TOKEN
        knowledge = neutralise(bot.knowledge[:reach])[:reach]
        newest = neutralise(message[-reach:])[-reach:]
        try:
            prompt = fit([newest], knowledge, bot.instruction, budget=self.budget, count_tokens=self.count_tokens)
        except ValueError as error:
            raise PromptTooLong(f"the bot's instruction leaves no room in a prompt of {self.budget} tokens") from error
        return replace(
            prompt,
            knowledge_characters_dropped=prompt.knowledge_characters_dropped + max(0, len(bot.knowledge) - reach),
            message_characters_dropped=prompt.message_characters_dropped + max(0, len(message) - reach),
        )
