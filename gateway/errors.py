"""What can go wrong in the gateway, and the HTTP status of each.

    GatewayError
    ├── InvalidInput         a value breaks a rule; `problems` names each
    ├── PromptTooLong        instruction and message do not fit the model's prompt
    ├── BadFraming           the length of the request's body is said in two ways
    ├── ContentTooLarge      the request's body is larger than any valid one
    ├── UnsupportedDocument  an upload of a kind that cannot be read
    ├── DocumentUnreadable   an upload that is encrypted, damaged, empty or too much work
    ├── BotNotFound
    ├── BotExists            something would overwrite it
    ├── BotChanged           somebody else changed it meanwhile
    ├── SessionNotFound
    ├── SessionFull          as much was said in it as may be
    ├── TooManySessions      the bot has as many as it may
    ├── Unauthenticated      no key, or none that is valid
    ├── Forbidden            the key is for other things or other bots
    ├── ForeignOrigin        no key is asked for, but the request comes from elsewhere
    ├── KeyNotFound
    ├── KeysOff              keys are made only where they are asked for
    ├── DeploymentNotFound
    ├── DeploymentUnfit      a model server that does not answer, or not as this gateway needs it
    ├── RoutingConflict      the shares of the deployments cannot be changed so, as they are now
    ├── RateLimited          the key or the bot has had its share of this minute
    ├── Overloaded           no room before the model; says when to come again
    │   ├── QueueFull        too many requests wait for it, or this one would wait too long
    │   └── BotQueueFull     too many of them are this bot's
    ├── ContentRefused       the moderator refuses question or answer
    ├── ClientGone           nobody waits for the answer any more
    ├── ShuttingDown         the grace after SIGTERM is over
    ├── ModelError
    │   ├── ModelRejected    the model refused this request; carries the model's own 4xx and problems
    │   ├── ModelBusy        its queue is full; try again soon
    │   ├── ModelTimeout     no answer before the deadline
    │   ├── ModelDown        no worker can answer; it may come back
    │   │   └── WorkerDied   one had the request when it died
    │   └── ModelGarbled     it answered what the contract does not know
    ├── StoreUnavailable     the database cannot be reached or is locked
    └── Misconfigured        a setting cannot work; raised at start-up

Foreign errors (aiohttp, SQLAlchemy, TorchServe's statuses) become one of these at the boundary, by type
or status, never by message text.
"""

# ruff: noqa: N818 - the names say what happened; all of them are errors

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway.limits import Standing


class GatewayError(Exception):
    """Base of all; the message is fit for the caller's eyes and holds no text of other users."""

    def __init__(self, detail: str, *, problems: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.detail: Final = detail
        self.problems: Final = dict(problems or {})


class InvalidInput(GatewayError):
    """One or more values break a rule."""

    @classmethod
    def of(cls, problems: Mapping[str, str]) -> "InvalidInput":
        """Return the error for `problems`, which maps the name of each bad value to what is wrong with it."""
        return cls("; ".join(f"{name} {problem}" for name, problem in problems.items()), problems=problems)


class PromptTooLong(GatewayError):
    """Instruction and message do not fit the model's prompt."""


class BadFraming(GatewayError):
    """The length of the request's body is said in two ways."""


class ContentTooLarge(GatewayError):
    """The request's body is larger than any valid one."""


class UnsupportedDocument(GatewayError):
    """An upload of a kind that cannot be read."""


class DocumentUnreadable(GatewayError):
    """An upload that is encrypted, damaged, without text, or takes too much to read."""


class BotNotFound(GatewayError):
    """There is no bot of that name."""

    def __init__(self, bot_id: str) -> None:
        super().__init__(f"there is no bot called {bot_id}; create it with PUT /v1/bots/{bot_id}")


class BotExists(GatewayError):
    """Bots that would be overwritten, and nobody said they may."""

    @classmethod
    def of(cls, *bot_ids: str) -> "BotExists":
        """Return the error for these bots."""
        return cls(f"already there: {', '.join(bot_ids)}")


class BotChanged(GatewayError):
    """The bot is not the one that the caller has seen."""

    def __init__(self, bot_id: str) -> None:
        super().__init__(f"the bot {bot_id} was changed meanwhile; read it again, then repeat your change")


class SessionNotFound(GatewayError):
    """There is no such session of this bot, or it is over."""

    def __init__(self, bot_id: str) -> None:
        super().__init__(f"there is no such session; begin one with POST /v1/bots/{bot_id}/sessions")


class SessionFull(GatewayError):
    """As much was said in the session as may be."""


class TooManySessions(GatewayError):
    """The bot has as many sessions as it may."""

    def __init__(self, bot_id: str, most: int) -> None:
        super().__init__(
            f"the bot {bot_id} has {most} sessions, as many as it may; delete some, or wait until old ones end"
        )


class Unauthenticated(GatewayError):
    """No key, or none that is valid."""


class Forbidden(GatewayError):
    """The key is for other things, or for other bots."""


class ForeignOrigin(GatewayError):
    """No key is asked for, and the request does not come from this machine for certain."""


class KeyNotFound(GatewayError):
    """There is no such key."""

    def __init__(self) -> None:
        # Not even the id is repeated: somebody may have pasted the whole key.
        super().__init__("there is no key of that id; GET /v1/keys lists them")


class KeysOff(GatewayError):
    """Keys are made only where they are asked for."""


class DeploymentNotFound(GatewayError):
    """There is no such deployment."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no deployment {name[:64]}; GET /v1/deployments lists them")


class DeploymentUnfit(GatewayError):
    """A model server does not answer, or reads prompts otherwise than this gateway writes them."""


class RoutingConflict(GatewayError):
    """The shares of the deployments cannot be changed so, as they are now."""


class RateLimited(GatewayError):
    """The key or the bot has had its share of this minute."""

    def __init__(self, detail: str, standing: "Standing") -> None:
        super().__init__(detail)
        self.standing: Final = standing


class Overloaded(GatewayError):
    """There is no room before the model; `retry_seconds` says when there may be."""

    def __init__(self, detail: str, *, retry_seconds: int = 1) -> None:
        super().__init__(detail)
        self.retry_seconds: Final = retry_seconds


class QueueFull(Overloaded):
    """Too many requests wait for the model, or another one would wait too long."""


class BotQueueFull(Overloaded):
    """Too many of the requests that wait for the model are this bot's."""


class ContentRefused(GatewayError):
    """The moderator refuses a question or an answer. The detail is for the client: do not quote the text in it."""


class ClientGone(GatewayError):
    """The client closed its connection before the answer was ready."""


class ShuttingDown(GatewayError):
    """The gateway ends before the answer was ready."""

    def __init__(self) -> None:
        super().__init__("the gateway is shutting down; nothing was lost but this answer")


class ModelError(GatewayError):
    """The model gave no answer."""


class ModelRejected(ModelError):
    """The model refused this request with a 4xx `status` of its own."""

    def __init__(self, detail: str, *, status: int, problems: Mapping[str, str] | None = None) -> None:
        super().__init__(detail, problems=problems)
        self.status: Final = status


class ModelBusy(ModelError):
    """The model's queue is full."""


class ModelTimeout(ModelError):
    """No answer before the deadline."""


class ModelDown(ModelError):
    """No worker can answer. Unless a worker may have got the request (`reached`), another one may be asked."""

    def __init__(self, detail: str, *, reached: bool = True) -> None:
        super().__init__(detail)
        self.reached: Final = reached


class WorkerDied(ModelDown):
    """A worker died, or was ended because it hung, while it had the request."""


class ModelGarbled(ModelError):
    """The reply is not what the contract says."""


class StoreUnavailable(GatewayError):
    """The database cannot be reached, or stays locked."""


class Misconfigured(GatewayError):
    """A setting cannot work."""


STATUSES: Final[dict[type[GatewayError], int]] = {
    InvalidInput: 422,
    PromptTooLong: 422,
    BadFraming: 400,
    ContentTooLarge: 413,
    UnsupportedDocument: 415,
    DocumentUnreadable: 422,
    BotNotFound: 404,
    BotExists: 409,
    BotChanged: 412,
    SessionNotFound: 404,
    SessionFull: 409,
    TooManySessions: 409,
    Unauthenticated: 401,
    Forbidden: 403,
    ForeignOrigin: 403,
    KeyNotFound: 404,
    KeysOff: 409,
    DeploymentNotFound: 404,
    DeploymentUnfit: 422,
    RoutingConflict: 409,
    RateLimited: 429,
    QueueFull: 503,
    BotQueueFull: 429,
    ContentRefused: 422,
    ClientGone: 499,  # nginx's number for it; nobody reads the body, but the log line does show it
    ShuttingDown: 503,
    ModelRejected: 422,
    ModelBusy: 503,
    ModelTimeout: 504,
    ModelDown: 503,
    WorkerDied: 503,
    ModelGarbled: 502,
    StoreUnavailable: 503,
    Misconfigured: 500,
}
"""The one table from error to HTTP status; every error that is raised is in it."""

RETRY_AFTER_SECONDS: Final[dict[type[GatewayError], int]] = {
    ModelBusy: 1,
    ModelDown: 3,
    WorkerDied: 3,
    StoreUnavailable: 1,
    ShuttingDown: 3,
}
"""When a retry makes sense: a dead worker is back in about three seconds. How long a queue takes, it says itself."""


def retry_after(error: GatewayError) -> int | None:
    """Return after how many seconds a retry makes sense, None where it does not."""
    if isinstance(error, RateLimited):
        return error.standing.reset_seconds
    return error.retry_seconds if isinstance(error, Overloaded) else RETRY_AFTER_SECONDS.get(type(error))


def status_of(error: GatewayError) -> int:
    """Return the HTTP status of `error`."""
    return error.status if isinstance(error, ModelRejected) else STATUSES[type(error)]
