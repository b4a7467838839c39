"""The JSON of conversations that the gateway keeps."""

import dataclasses
from datetime import datetime
from typing import Self

from pydantic import Field

from gateway.conversations import Exchange, Session
from gateway.routes.schemas import Output

_SESSION_ID = "019ab4c3e1f07b1d9c2e4a5f60718293a4b5"


class SessionOutput(Output):
    """A conversation with a bot."""

    session_id: str = Field(examples=[_SESSION_ID])
    bot_id: str = Field(examples=["cricket"])
    created_at: datetime
    updated_at: datetime
    """When something was last said."""
    exchanges: int = Field(examples=[1])
    """How many messages were answered in it."""

    @classmethod
    def of(cls, session: Session) -> Self:
        """Return `session` as clients see it."""
        return cls.model_validate(dataclasses.asdict(session))


class SessionList(Output):
    """One page of sessions, the newest first."""

    sessions: list[SessionOutput]
    next_after: str | None = Field(examples=[None])
    """Ask for `?after=` this to get the next page; null on the last."""


class TurnOutput(Output):
    """A message and the bot's answer."""

    number: int = Field(examples=[1])
    message: str = Field(examples=["How many players are in a team?"])
    response: str = Field(examples=["There are eleven players in each team."])
    created_at: datetime

    @classmethod
    def of(cls, exchange: Exchange) -> Self:
        """Return `exchange` as clients see it."""
        return cls.model_validate(dataclasses.asdict(exchange))


class SessionWithTurns(SessionOutput):
    """A conversation and one page of what was said in it, the oldest first."""

    turns: list[TurnOutput]
    next_after: int | None = Field(examples=[None])
    """Ask for `?after=` this to get the next page; null on the last."""
