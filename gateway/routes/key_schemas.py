"""The JSON of keys."""

import dataclasses
from datetime import datetime
from typing import Any, Self

from pydantic import AwareDatetime, Field

from gateway.bots import MAX_NAME_CHARACTERS
from gateway.keys import MAX_BOTS, MAX_OVERLAP_SECONDS, Key, Scope
from gateway.routes.schemas import Input, Limits, Output, Several

_KEY_ID = "019ab4c3e1f07b1d9c2e"


class KeyInput(Input):
    """A key to make."""

    name: str = Field(default="", max_length=MAX_NAME_CHARACTERS, examples=["the shop's web site"])
    """What it is for."""
    scope: Scope = Field(examples=["chat"])
    """`chat` talks to bots, `edit` also changes them and reads their knowledge, `admin` also makes keys."""
    bots: Several[str] | None = Field(default=None, max_length=MAX_BOTS, examples=[["cricket"]])
    """The bots it is for, which need not be there yet; null for all."""
    limits: Limits = Field(default={}, examples=[{"requests_per_minute": 60}])
    """In place of the gateway's own."""
    expires_at: AwareDatetime | None = Field(default=None, strict=False, examples=[None])
    """When it ends by itself; null for never."""


class RotationInput(Input):
    """How one key takes the place of another."""

    overlap_seconds: int = Field(default=24 * 3600, ge=0, le=MAX_OVERLAP_SECONDS, examples=[3600])
    """How long the old one stays valid: a day, if you do not say."""


def _shown(key: Key) -> dict[str, Any]:
    return dataclasses.asdict(key) | {"expires_at": key.ends_at}


class KeyOutput(Output):
    """A key, without its secret."""

    key_id: str = Field(examples=[_KEY_ID])
    name: str = Field(examples=["the shop's web site"])
    scope: Scope = Field(examples=["chat"])
    bots: list[str] | None = Field(examples=[["cricket"]])
    limits: Limits = Field(examples=[{"requests_per_minute": 60}])
    created_at: datetime
    expires_at: datetime | None = Field(examples=[None])
    """When it ends, by itself or because it was rotated; null for never."""
    last_used_at: datetime | None = Field(examples=[None])
    """Give or take ten minutes."""

    @classmethod
    def of(cls, key: Key) -> Self:
        """Return `key` as clients see it."""
        return cls.model_validate(_shown(key))


class KeyWithToken(KeyOutput):
    """A new key, shown this once."""

    token: str = Field(examples=[f"godel_{_KEY_ID}_{'x' * 43}"])
    """Send it as `Authorization: Bearer`, or as `X-API-Key`."""

    @classmethod
    def issued(cls, key: Key, token: str) -> Self:
        """Return `key` with its token."""
        return cls.model_validate(_shown(key) | {"token": token})


class KeyList(Output):
    """One page of keys, the oldest first."""

    keys: list[KeyOutput]
    next_after: str | None = Field(examples=[None])
    """Ask for `?after=` this to get the next page; null on the last."""
