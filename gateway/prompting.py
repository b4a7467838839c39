"""A bot and the turns of a dialogue become the prompt that the model reads."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gateway.bots import Bot
from gateway.errors import PromptTooLong
from gateway.tokens import CountTokens
from handler.contract.prompt import FittedPrompt, fit, neutralise

CHARACTERS_PER_TOKEN = 32
"""More than any vocabulary's entry holds: what lies beyond budget x this cannot fit, so nobody counts it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptBuilder:
    """Builds prompts of at most `budget` tokens. May be used by several threads at once."""

    count_tokens: CountTokens
    budget: int

    def build(self, bot: Bot, turns: Sequence[str]) -> FittedPrompt:
        """Return the prompt for the last of `turns`, with what was left out of it. Raises PromptTooLong."""
        reach = self.budget * CHARACTERS_PER_TOKEN
        knowledge = neutralise(bot.knowledge[:reach])[:reach]
        near = [neutralise(turn[-reach:])[-reach:] for turn in turns]
        try:
            prompt = fit(near, knowledge, bot.instruction, budget=self.budget, count_tokens=self.count_tokens)
        except ValueError as error:
            raise PromptTooLong(f"the bot's instruction leaves no room in a prompt of {self.budget} tokens") from error
        return replace(
            prompt,
            knowledge_characters_dropped=prompt.knowledge_characters_dropped + max(0, len(bot.knowledge) - reach),
            message_characters_dropped=prompt.message_characters_dropped + max(0, len(turns[-1]) - reach),
        )
