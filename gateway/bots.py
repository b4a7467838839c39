"""What a bot is and the rules its parts obey. Knows neither HTTP nor databases.

A bot is a passage of knowledge with an instruction, default generation parameters and limits.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from gateway.errors import InvalidInput
from handler.contract.generation import MAX_PROBLEMS, GenerationParameters, ParameterError
from handler.contract.prompt import INSTRUCTIONS, neutralise

BOT_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

RESERVED_BOT_IDS: Final = frozenset(
    {"v1", "docs", "redoc", "openapi.json", "healthz", "readyz", "livez", "metrics", "static"}
)
"""First path segments that are, or will be, the gateway's own. The app refuses to start with a route outside them."""

MAX_INSTRUCTION_CHARACTERS: Final = 500
"""An instruction shares the prompt's budget with the message and the knowledge."""

MAX_NAME_CHARACTERS: Final = 200

LIMITS: Final = ("requests_per_minute", "tokens_per_minute")
"""What may be limited for one bot; the gateway's own limits hold beside these."""

MAX_LIMIT: Final = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class BotDraft:
    """A bot as somebody wants it. Made by `BotRules.draft`, so that every part obeys the rules."""

    bot_id: str
    knowledge: str = ""
    instruction: str | None = None
    """A name of the contract's INSTRUCTIONS, the bot's own text, or None for the default."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Those generation parameters that differ from the contract's defaults."""
    name: str = ""
    """What people call it; may be empty."""
    limits: Mapping[str, int] = field(default_factory=dict)
    """By names of LIMITS; what is not named is not limited for this bot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bot(BotDraft):
    """A bot as the store holds it."""

    created_at: datetime
    updated_at: datetime
    revision: int
    """1 when created, one more with each change; no change is ever lost in between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BotEntry:
    """A bot without its knowledge, which may be a book: a list of bots is no library."""

    bot_id: str
    name: str
    instruction: str | None
    knowledge_characters: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class BotRules:
    """Checks everything a bot is made of. Each method raises InvalidInput with one problem for each bad value."""

    max_knowledge_characters: int

    def draft(
        self,
        bot_id: str,
        knowledge: str = "",
        instruction: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        *,
        name: str = "",
        limits: Mapping[str, Any] | None = None,
    ) -> BotDraft:
        """Return the bot these values describe."""
        problems = {
            "bot_id": bot_id_problem(bot_id),
            "knowledge": text_problem(knowledge, self.max_knowledge_characters),
            "instruction": _instruction_problem(instruction),
            "name": text_problem(name, MAX_NAME_CHARACTERS),
        }
        found = {name: problem for name, problem in problems.items() if problem}
        found |= parameter_problems(parameters or {}) | limit_problems(limits or {})
        if found:
            raise InvalidInput.of(found)
        return BotDraft(
            bot_id=bot_id,
            knowledge=knowledge,
            instruction=instruction,
            parameters=dict(parameters or {}),
            name=name,
            limits=dict(limits or {}),
        )

    def lesson(self, bot_id: str, knowledge: str) -> BotDraft:
        """Return a draft that teaches `bot_id` something: its knowledge may not be blank."""
        draft = self.draft(bot_id, knowledge)
        if is_blank(knowledge):
            raise InvalidInput.of({"knowledge": "must not be blank"})
        return draft


def check_bot_id(bot_id: str) -> str:
    """Return `bot_id`. Raises InvalidInput when it cannot be the name of a bot."""
    if problem := bot_id_problem(bot_id):
        raise InvalidInput.of({"bot_id": problem})
    return bot_id


def bot_id_problem(bot_id: str) -> str | None:
    """Return why `bot_id` cannot be the name of a bot, or None."""
    if not BOT_ID.fullmatch(bot_id):
        return "must be 1 to 64 letters, digits, dots, dashes or underscores, and start with a letter or digit"
    if bot_id in RESERVED_BOT_IDS:
        return f"must not be {bot_id}, which is an address of the gateway itself"
    return None


def parameter_problems(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Return what is wrong with each bad one of `parameters`, by its place in a request."""
    if not parameters:
        return {}
    try:
        generation_parameters(parameters)
    except InvalidInput as error:
        return dict(error.problems)
    return {}


def generation_parameters(
    parameters: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> GenerationParameters:
    """Return these parameters, and for the rest `defaults`, the served model's own. Raises InvalidInput."""
    try:
        return GenerationParameters.from_mapping(parameters, defaults)
    except ParameterError as error:
        problems = {f"parameters.{name}": problem for name, problem in error.problems.items()}
        raise InvalidInput.of(problems) from error


def text_problem(text: str, longest: int) -> str | None:
    """Return why `text` cannot be kept or sent on, or None."""
    if len(text) > longest:
        return f"has {len(text)} characters, more than {longest}"
    if "\0" in text:
        return "must not hold NUL characters"
    try:
        text.encode()
    except UnicodeEncodeError:  # JSON can spell half a character, as \ud800
        return "must be text that UTF-8 can hold"
    return None


def is_blank(text: str) -> bool:
    """Return whether nothing of `text` would reach a prompt; looks no further than the first that would."""
    return not any(neutralise(text[start : start + 256]) for start in range(0, len(text), 256))


def limit_problems(limits: Mapping[str, Any]) -> dict[str, str]:
    """Return what is wrong with each bad one of `limits`, MAX_PROBLEMS at most, by its place in a request."""
    problems: dict[str, str] = {}
    for name, value in limits.items():
        if len(problems) == MAX_PROBLEMS:
            break
        if name not in LIMITS:
            problems[f"limits.{name[:64]}"] = f"is not a limit; known are {', '.join(LIMITS)}"
        elif not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_LIMIT:
            problems[f"limits.{name}"] = f"must be a whole number from 1 to {MAX_LIMIT}"
    return problems


def _instruction_problem(instruction: str | None) -> str | None:
    if instruction is None:
        return None
    if problem := text_problem(instruction, MAX_INSTRUCTION_CHARACTERS):
        return problem
    return f"must be one of {', '.join(INSTRUCTIONS)}, a text of your own, or null" if is_blank(instruction) else None
