"""A place to plug in a check of what people say and what bots answer; and a simple one, by a list of words.

`GODEL_MODERATOR=package.module:name` names something that is called with the gateway's settings when it starts and
returns a `Moderator`. Its methods run in the gateway's event loop: what takes long has to be awaited.
"""

import pkgutil
import re
import unicodedata
from typing import Final, Protocol

from gateway.errors import ContentRefused, Misconfigured
from gateway.settings import Settings


class Moderator(Protocol):
    """Checks texts. While there is one, a streamed answer is sent only when it is whole and has been checked."""

    async def check_question(self, bot_id: str, text: str) -> None:
        """Look at what somebody says, before the model sees it. Raises ContentRefused, whose text the client gets."""
        ...

    async def check_answer(self, bot_id: str, text: str) -> str:
        """Return what the client gets of an answer: `text`, or something in its place. Raises ContentRefused."""
        ...


def load_moderator(settings: Settings) -> Moderator | None:
    """Return the moderator that the settings name, None without one. Raises Misconfigured."""
    if settings.moderator is None:
        return None
    try:
        moderator: Moderator = pkgutil.resolve_name(settings.moderator)(settings)
    except (ImportError, AttributeError, ValueError, TypeError, OSError) as error:
        raise Misconfigured(f"moderator: {settings.moderator} cannot be used: {error}") from error
    return moderator


class WordList:
    """A `Moderator` that refuses texts with certain words: whole ones, upper or lower case, however composed."""

    def __init__(self, settings: Settings) -> None:
        """Read the file that `moderation_words` names: a word or a phrase a line. Raises Misconfigured."""
        path = settings.moderation_words
        if path is None:
            raise Misconfigured("moderation_words: say which file holds the words (GODEL_MODERATION_WORDS)")
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise Misconfigured(f"moderation_words: {path} cannot be read: {error}") from error
        words = [r"\s+".join(map(re.escape, _plain(line).split())) for line in lines if line.strip()]
        if not words:
            raise Misconfigured(f"moderation_words: {path} holds no word")
        self._words: Final = re.compile(rf"(?<!\w)(?:{'|'.join(words)})(?!\w)")

    async def check_question(self, bot_id: str, text: str) -> None:  # noqa: ARG002 - alike for all bots
        """Raise ContentRefused when one of the words is in `text`."""
        if self._words.search(_plain(text)):
            raise ContentRefused("the message holds words that are not taken here")

    async def check_answer(self, bot_id: str, text: str) -> str:  # noqa: ARG002 - alike for all bots
        """Return `text`. Raises ContentRefused when one of the words is in it."""
        if self._words.search(_plain(text)):
            raise ContentRefused("the answer holds words that are not given here")
        return text


def _plain(text: str) -> str:
    """Return `text` so that what reads alike is alike: compatibility forms (Unicode's NFKC), no case."""
    return unicodedata.normalize("NFKC", text).casefold()
