"""A bot and the turns of a dialogue become the prompt that the model reads.

When not everything fits, the newest turn comes first; earlier turns get up to a quarter of the budget, the newest
of them first; the rest is for the passages of the knowledge that match best, in the order of the text.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final

from gateway.bots import Bot
from gateway.errors import PromptTooLong
from gateway.passages import Span
from gateway.retrieval import Found, PassageIndexes
from gateway.tokens import CountTokens
from handler.contract.prompt import DEFAULT_INSTRUCTION, FittedPrompt, fit, instruction_text, neutralise, render

CHARACTERS_PER_TOKEN: Final = 32
"""More than any vocabulary's entry holds: what lies beyond budget x this cannot fit, so nobody counts it."""

EARLIER_TURNS_SHARE: Final = 1 / 4
"""Of the budget, when knowledge has to be left out too."""

COSTS_KEPT: Final = 2048
"""Turns and passages come back with each message of a session; their tokens are counted once."""

SEAM_TOKENS: Final = 16
"""By how much the tokens of a whole may differ from the sum of its parts'. Sums only rule out what cannot fit; what is
sent is counted whole."""

QUICK_MESSAGE: Final = 1000
QUICK_CHARACTERS: Final = 8192
"""A prompt of a message and a dialogue with knowledge as short as that is built in a millisecond or two."""

MISSES: Final = 3
"""How many passages in a row may prove too long before the search for a shorter one ends."""


@dataclass(frozen=True, slots=True)
class BuiltPrompt(FittedPrompt):
    """A prompt, and which passages of the bot's knowledge are in it: offsets into the text as it was given."""

    passages: Sequence[Found] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptBuilder:
    """Builds prompts of at most `budget` tokens. May be used by several threads at once."""

    count_tokens: CountTokens
    budget: int
    indexes: PassageIndexes = field(default_factory=PassageIndexes)
    _cost: CountTokens = field(init=False, repr=False, compare=False)
    """The tokens of a piece, without the end token."""
    _reach: int = field(init=False, repr=False, compare=False)
    """How many characters of a text a prompt can hold at most."""

    def __post_init__(self) -> None:
        """Wrap the counter."""
        object.__setattr__(self, "_reach", self.budget * CHARACTERS_PER_TOKEN)
        cached = functools.lru_cache(COSTS_KEPT)(lambda text: self.count_tokens(text) - 1)
        object.__setattr__(self, "_cost", cached)

    def is_quick(self, bot: Bot, turns: Sequence[str]) -> bool:
        """Return whether `build` takes so little time that calling a thread for it would take more."""
        return len(turns[-1]) <= QUICK_MESSAGE and len(bot.knowledge) + sum(map(len, turns)) <= QUICK_CHARACTERS

    def build(self, bot: Bot, turns: Sequence[str], unread: int = 0) -> BuiltPrompt:
        """Return the prompt for the last of `turns`, with what was left out of it: so are the `unread` turns before
        them. Raises PromptTooLong.
        """
        *earlier, newest = turns
        message = self._neutralised(newest)
        far = max(0, len(newest) - self._reach)
        knowledge = bot.knowledge if bot.knowledge.strip() else ""
        room = -1  # beside knowledge that nobody need count
        if len(knowledge) <= self._reach:
            room = self.budget + SEAM_TOKENS - self._cost(message) - self._cost(neutralise(knowledge))
        near = [*self._newest(earlier, room), message]
        if room >= 0 and len(near) == len(turns):
            whole = self._fit(near, neutralise(knowledge), bot.instruction)
            if not (whole.turns_dropped or whole.knowledge_characters_dropped or whole.message_characters_dropped):
                known = [Found(Span(0, len(knowledge)), None)] if knowledge else []
                return _built(whole, known, turns=unread, message=far)
        if not knowledge:
            prompt = self._fit(near, "", bot.instruction)
            return _built(prompt, [], turns=unread + len(turns) - len(near), message=far)
        # The instruction stays that of a bot with knowledge, also where a long message leaves none of it.
        instruction = bot.instruction or DEFAULT_INSTRUCTION
        kept = [*self._newest(earlier, self.budget * EARLIER_TURNS_SHARE), message]
        chosen = self._choose(knowledge, kept, instruction)
        prompt = self._fit(kept, _joined(knowledge, chosen), instruction)
        while prompt.knowledge_characters_dropped and chosen:  # the seams cost more than their parts
            chosen.remove(min(chosen, key=lambda found: found.score or 0.0))
            prompt = self._fit(kept, _joined(knowledge, chosen), instruction)
        left_out = len(knowledge) - sum(found.span.end - found.span.start for found in chosen)
        return _built(prompt, chosen, turns=unread + len(turns) - len(kept), knowledge=left_out, message=far)

    def _fit(self, turns: Sequence[str], knowledge: str, instruction: str | None) -> FittedPrompt:
        try:
            return fit(turns, knowledge, instruction, budget=self.budget, count_tokens=self.count_tokens)
        except ValueError as error:
            raise PromptTooLong(f"the bot's instruction leaves no room in a prompt of {self.budget} tokens") from error

    def _neutralised(self, turn: str) -> str:
        return neutralise(turn[-self._reach :])[-self._reach :]

    def _newest(self, turns: Sequence[str], room: float) -> list[str]:
        """Return the newest of `turns`, neutralised, that take no more than `room` tokens; older ones are not read."""
        kept: list[str] = []
        for turn in reversed(turns):
            near = self._neutralised(turn)
            room -= self._cost(near) + 1  # what stands between two turns
            if room < 0:
                break
            kept.append(near)
        return kept[::-1]

    def _choose(self, knowledge: str, turns: Sequence[str], instruction: str) -> list[Found]:
        """Return the best passages that fit beside `turns`, in the order of the text."""
        chosen: list[Found] = []
        misses = 0
        # What stands before each turn and before the knowledge is one token, and so is the end.
        header = instruction_text(instruction, has_knowledge=True)
        tokens = self._cost(header) + sum(map(self._cost, turns)) + len(turns) + 2
        for found in self.indexes.of(knowledge).search(turns, limit=self.budget):
            if misses == MISSES:
                break
            more = self._cost(neutralise(_text(knowledge, found)))
            if not chosen and tokens + more > self.budget - SEAM_TOKENS:  # too near to be told by a sum
                tokens, more = self._tokens(knowledge, turns, instruction, found), 0
            if tokens + more <= self.budget:
                chosen.append(found)
                tokens += more
                misses = 0
            elif chosen:
                misses += 1
            else:
                part = self._beginning(knowledge, turns, instruction, found)
                return [part] if part else []
        return _in_order(chosen)

    def _tokens(self, knowledge: str, turns: Sequence[str], instruction: str, found: Found) -> int:
        return self.count_tokens(render(turns, _text(knowledge, found), instruction))

    def _beginning(self, knowledge: str, turns: Sequence[str], instruction: str, found: Found) -> Found | None:
        """Return the longest beginning of a passage, by words, that fits; None when not even one does."""
        text = _text(knowledge, found)
        ends = [place for place in range(1, len(text)) if text[place].isspace()]
        low, high = 0, len(ends)
        while low < high:
            middle = (low + high) // 2
            part = Found(Span(found.span.start, found.span.start + ends[middle]), found.score)
            fits = self._tokens(knowledge, turns, instruction, part) <= self.budget
            low, high = (middle + 1, high) if fits else (low, middle)
        return Found(Span(found.span.start, found.span.start + ends[low - 1]), found.score) if low else None


def _text(knowledge: str, found: Found) -> str:
    return knowledge[found.span.start : found.span.end]


def _joined(knowledge: str, chosen: Sequence[Found]) -> str:
    return " ".join([neutralise(_text(knowledge, found)) for found in chosen])


def _in_order(chosen: Sequence[Found]) -> list[Found]:
    return sorted(chosen, key=attrgetter("span.start"))


def _built(
    prompt: FittedPrompt, passages: Sequence[Found], *, turns: int, message: int, knowledge: int = 0
) -> BuiltPrompt:
    """Return `prompt` with its passages, and what was left out: of turns and message also what it was not made of."""
    return BuiltPrompt(
        text=prompt.text,
        tokens=prompt.tokens,
        turns_dropped=prompt.turns_dropped + turns,
        knowledge_characters_dropped=knowledge,
        message_characters_dropped=prompt.message_characters_dropped + message,
        passages=passages,
    )
