"""Keys: who calls, and what each key may do. Knows neither HTTP nor databases.

A key is `godel_<id>_<secret>`. The id is no secret: it finds the key and stands in logs. The secret holds 256 random
bits, of which only the SHA-256 is kept: a slow hash protects what people invent, this nobody can guess.
"""

import contextlib
import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Literal, get_args

from gateway.bots import MAX_NAME_CHARACTERS, bot_id_problem, limit_problems, text_problem
from gateway.errors import Forbidden, InvalidInput, KeyNotFound, KeysOff, StoreUnavailable, Unauthenticated

if TYPE_CHECKING:
    from gateway.store.port import KeyStore

Scope = Literal["chat", "edit", "admin"]
"""Each may what those before it may: talk to bots, change them, make keys."""

SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)

MAX_BOTS: Final = 1000
MAX_OVERLAP_SECONDS: Final = 30 * 24 * 3600
TOUCH: Final = timedelta(minutes=10)
"""How exact `last_used_at` is: a write for each request would cost more than it tells."""

_TOKEN: Final = re.compile(r"godel_([0-9a-f]{20})_([A-Za-z0-9_-]{43})")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key as the store holds it; the secret itself is nowhere."""

    key_id: str
    """Sorts by when the key was made."""
    name: str
    scope: Scope
    bots: tuple[str, ...] | None
    """The bots it is for; None is all of them."""
    limits: Mapping[str, int] = field(default_factory=dict)
    """By names of LIMITS; what is not named is limited by the gateway's defaults."""
    digest: str = field(repr=False)
    """The SHA-256 of the secret, in hexadecimal digits."""
    created_at: datetime
    expires_at: datetime | None
    """None: never."""
    last_used_at: datetime | None = None
    """Give or take ten minutes; None before the first time."""
    retires_at: datetime | None = None
    """When it ends because another one has taken its place."""

    @property
    def ends_at(self) -> datetime | None:
        """When it is worthless; None is never."""
        return min((moment for moment in (self.expires_at, self.retires_at) if moment is not None), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who made a request."""

    key_id: str
    """For the log: the id of the key, `admin` or `local`."""
    scope: Scope
    bots: frozenset[str] | None = None
    """The bots it may have to do with; None is all of them."""
    limits: Mapping[str, int] = field(default_factory=dict)

    def check(self, scope: Scope, *, bot_id: str | None = None, every_bot: bool = False) -> None:
        """Raise Forbidden unless the caller may do what `scope` allows, to this bot, or to every bot there may be.

        The same answer is given whether the bot exists or not.
        """
        if SCOPES.index(self.scope) < SCOPES.index(scope):
            raise Forbidden(f"this key may {self.scope}; what you want needs one with the scope {scope}")
        if self.bots is not None and (every_bot or (bot_id is not None and bot_id not in self.bots)):
            raise Forbidden("this key is not for all bots" if every_bot else "this key is for other bots")


LOCAL: Final = Caller(key_id="local", scope="admin")
"""Whoever sits at this machine, where no key is asked for."""

ADMIN: Final = Caller(key_id="admin", scope="admin")
"""Who has the key from the settings."""


class Keys:
    """Makes keys and knows them again. Without `admin_key` no key is asked for and none is made."""

    def __init__(self, store: "KeyStore", admin_key: str | None, clock: Callable[[], datetime]) -> None:
        self._store, self._clock = store, clock
        self._admin = None if admin_key is None else _digest(admin_key)
        self._tried: dict[str, datetime] = {}
        """When the use of a key was noted, or could not be."""

    @property
    def required(self) -> bool:
        """Whether callers need a key."""
        return self._admin is not None

    async def identify(self, token: str | None) -> Caller:
        """Return whose key `token` is. Raises Unauthenticated."""
        if self._admin is None:
            return LOCAL
        if not token:
            raise Unauthenticated("a key is needed: send `Authorization: Bearer KEY` or `X-API-Key: KEY`")
        if hmac.compare_digest(self._admin, _digest(token)):
            return ADMIN
        parts, moment = _TOKEN.fullmatch(token), self._clock()
        try:
            key = await self._store.get_key(parts[1] if parts else "")
        except KeyNotFound:
            key = None
        if (
            parts is None
            or key is None
            or not hmac.compare_digest(key.digest, _digest(parts[2]))
            or (key.ends_at is not None and key.ends_at <= moment)
        ):
            raise Unauthenticated("this key is not, or no longer, valid")
        if key.last_used_at is None or moment - key.last_used_at > TOUCH:
            await self._touch(key, moment)
        bots = None if key.bots is None else frozenset(key.bots)
        return Caller(key_id=key.key_id, scope=key.scope, bots=bots, limits=key.limits)

    async def _touch(self, key: Key, moment: datetime) -> None:
        """Note that the key was used. A question only reads, so it is answered also where nothing can be written."""
        tried = self._tried.get(key.key_id)
        if tried is not None and moment - tried <= TOUCH:
            return
        self._tried[key.key_id] = moment
        with contextlib.suppress(StoreUnavailable):  # which the store has logged
            await self._store.touch_key(key.key_id, moment)

    async def issue(
        self,
        *,
        name: str,
        scope: Scope,
        bots: Collection[str] | None = None,
        limits: Mapping[str, int] | None = None,
        expires_at: datetime | None = None,
        by: Caller,
    ) -> tuple[Key, str]:
        """Return a new key and its token, which is shown nowhere else. Raises InvalidInput or KeysOff."""
        self._check_on()
        moment = self._clock()
        problems = {"name": text_problem(name, MAX_NAME_CHARACTERS), "bots": _bots_problem(scope, bots)}
        if expires_at is not None:
            try:
                expires_at = expires_at.astimezone(UTC)
            except OverflowError:
                problems["expires_at"] = "must lie before the year 10000, in UTC"
            else:
                problems["expires_at"] = None if expires_at > moment else "must lie in the future"
        found = {name: problem for name, problem in problems.items() if problem} | limit_problems(limits or {})
        if found:
            raise InvalidInput.of(found)
        key, token = _new(
            moment,
            name=name,
            scope=scope,
            bots=None if bots is None else tuple(sorted(set(bots))),
            limits=dict(limits or {}),
            expires_at=expires_at,
        )
        await self._store.add_key(key)
        logger.info("key %s made by %s", key.key_id, by.key_id)
        return key, token

    async def rotate(self, key_id: str, *, overlap: timedelta, by: Caller) -> tuple[Key, str]:
        """Return a key like that one and its token; the old one is valid for `overlap` more, so nobody is cut off.

        The new one lives as long as the old one was to live, also where that was rotated before. Raises KeyNotFound,
        also for one that has ended.
        """
        self._check_on()
        moment = self._clock()
        old = await self._store.get_key(key_id)
        if old.ends_at is not None and old.ends_at <= moment:
            raise KeyNotFound
        key, token = _new(
            moment,
            name=old.name,
            scope=old.scope,
            bots=old.bots,
            limits=old.limits,
            expires_at=None if old.expires_at is None else _later(moment, old.expires_at - old.created_at),
        )
        until = moment + overlap
        retires_at = until if old.retires_at is None else min(until, old.retires_at)
        await self._store.rotate_key(key_id, key, retires_at=retires_at)
        logger.info("key %s made by %s in place of %s", key.key_id, by.key_id, key_id)
        return key, token

    async def revoke(self, key_id: str, *, by: Caller) -> None:
        """Make a key worthless from now on. Raises KeyNotFound."""
        self._check_on()
        await self._store.delete_key(key_id)
        logger.info("key %s revoked by %s", key_id, by.key_id)

    def _check_on(self) -> None:
        if not self.required:
            raise KeysOff("no key is asked for here, so none is made: set GODEL_ADMIN_KEY and start again")


def _new(
    moment: datetime,
    *,
    name: str,
    scope: Scope,
    bots: tuple[str, ...] | None,
    limits: Mapping[str, int],
    expires_at: datetime | None,
) -> tuple[Key, str]:
    key_id = f"{int(moment.timestamp() * 1000):012x}{secrets.token_hex(4)}"
    secret = secrets.token_urlsafe(32)
    key = Key(
        key_id=key_id,
        name=name,
        scope=scope,
        bots=bots,
        limits=limits,
        digest=_digest(secret),
        created_at=moment,
        expires_at=expires_at,
    )
    return key, f"godel_{key_id}_{secret}"


def _later(moment: datetime, life: timedelta) -> datetime:
    try:
        return moment + life
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def _bots_problem(scope: Scope, bots: Collection[str] | None) -> str | None:
    if bots is None:
        return None
    if scope == "admin":
        return "must be null: a key with the scope admin is for all bots"
    if not 1 <= len(bots) <= MAX_BOTS:
        return f"must name 1 to {MAX_BOTS} bots, or be null for all"
    problems = ((number, bot_id_problem(bot_id)) for number, bot_id in enumerate(bots, 1))
    return next((f"hold a name, number {number}, that {problem}" for number, problem in problems if problem), None)
