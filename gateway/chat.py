"""A message to a bot becomes a prompt, the prompt an answer."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import anyio.to_thread

from gateway.bots import is_blank, parameter_problems, text_problem
from gateway.errors import InvalidInput, ModelTimeout
from gateway.inference import Inference
from gateway.prompting import PromptBuilder
from gateway.store.port import Store
from handler.contract.generation import GenerationParameters
from handler.contract.prompt import FittedPrompt
from handler.contract.wire import GenerateReply, GenerateRequest


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
    prompts: PromptBuilder
    timeout: float
    max_message_characters: int
    clock: Callable[[], float] = time.time

    async def answer(self, bot_id: str, turns: Sequence[str], overrides: Mapping[str, Any], request_id: str) -> Answer:
        """Return the bot's answer to the last of `turns`; those before it were said by turns, the oldest first.

        `overrides` win over the bot's own parameters. Raises InvalidInput, BotNotFound, PromptTooLong,
        StoreUnavailable or a ModelError.
        """
        submitted = self.clock()
        self._check(turns[-1], overrides)
        bot = await self.store.get(bot_id)
        parameters = {**bot.parameters, **overrides}
        if problems := parameter_problems(parameters):  # each part was right, together they may not be
            raise InvalidInput.of(problems)
        # Counting the tokens of a long text takes a while; other requests go on meanwhile.
        prompt = await anyio.to_thread.run_sync(self.prompts.build, bot, turns)
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
