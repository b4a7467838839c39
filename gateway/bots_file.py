"""Bots in a JSON file of the old kind, and how they come into the store.

Understood are `{"bot": "knowledge"}`, `{"bot": {"context": "knowledge"}}` and `[{"bot_id": "bot", "context":
"knowledge"}]`; in objects `id` will do for `bot_id` and `knowledge` for `context`.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gateway.bots import BotDraft, BotRules
from gateway.errors import BotExists, InvalidInput
from gateway.store.sql import SqlStore

_NAMES, _KNOWLEDGE = ("bot_id", "id"), ("context", "knowledge")


async def import_file(file: Path, database_url: str, rules: BotRules, *, replace: bool) -> str:
    """Put the bots of `file` into the database, all or none; return a line that says what was done.

    Raises InvalidInput naming each bad entry, BotExists, Misconfigured or StoreUnavailable.
    """
    drafts = parse(_text(file), rules)
    async with SqlStore.open(database_url) as store:
        try:
            bots = await store.teach_all(drafts, replace=replace)
        except BotExists as error:
            raise BotExists(f"{error.detail}. Nothing was imported; --replace overwrites their knowledge") from error
    replaced = sum(bot.revision > 1 for bot in bots)
    return f"imported {len(bots)} bots: {len(bots) - replaced} new, {replaced} replaced"


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{file} cannot be read: {error}") from error


def parse(text: str, rules: BotRules) -> list[BotDraft]:
    """Return the bots in `text`. Raises InvalidInput with one problem for each bad entry."""
    try:
        content = json.loads(text, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"the file is not JSON: {error}") from error
    if not isinstance(content, _Pairs | list):
        raise InvalidInput("the file must hold an object, bot by bot, or a list of bots")
    drafts: dict[str, BotDraft] = {}
    problems: dict[str, str] = {}
    for place, bot_id, knowledge in _entries(content):
        try:
            if not isinstance(bot_id, str):
                raise InvalidInput("has no bot_id")
            if not isinstance(knowledge, str):
                raise InvalidInput("has no context that is text")
            if bot_id in drafts:
                raise InvalidInput("occurs twice")
            drafts[bot_id] = rules.draft(bot_id, knowledge)
        except InvalidInput as error:
            problems[place] = error.detail
    if problems:
        raise InvalidInput.of(problems)
    return list(drafts.values())


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as its pairs, so that a name that occurs twice is seen."""


def _entries(content: "_Pairs | list[Any]") -> Iterator[tuple[str, Any, Any]]:
    """Yield where each entry stands, for messages, its bot id and its knowledge; None for what is missing."""
    if isinstance(content, _Pairs):
        for name, value in content:
            yield f"entry {name[:80]!r}", name, _first(value, _KNOWLEDGE) if isinstance(value, _Pairs) else value
        return
    for index, item in enumerate(content):
        name = _first(item, _NAMES)
        place = f"entry {index}" + (f" ({name[:80]!r})" if isinstance(name, str) else "")
        yield place, name, _first(item, _KNOWLEDGE)


def _first(item: Any, names: tuple[str, ...]) -> Any:
    values = dict(item) if isinstance(item, _Pairs) else {}
    return next((values[name] for name in names if name in values), None)
