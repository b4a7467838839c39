"""Every setting of the gateway: its type, its default and why. Read from the environment, prefix `GODEL_`."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from gateway.bots import MAX_LIMIT
from gateway.loopback import is_loopback


def _http_address(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError("must start with http:// or https://")
    return value.rstrip("/")


HttpAddress = Annotated[str, AfterValidator(_http_address)]


MIN_ADMIN_KEY: Final = 16

_OF_CLIENTS: Final = {"GODEL_URL", "GODEL_API_KEY"}
"""What the command line `godel` reads."""


def unknown_variables(environment: Iterable[str]) -> list[str]:
    """Return a sentence for each variable that would be a setting if it were spelt as one."""
    known = [f"GODEL_{name}".upper() for name in Settings.model_fields]
    said = []
    for name in sorted({name for name in environment if name.startswith("GODEL_")} - {*known, *_OF_CLIENTS}):
        close = difflib.get_close_matches(name, known, n=1)
        said.append(f"{name} is no setting and changes nothing" + (f"; did you mean {close[0]}?" if close else ""))
    return said


class Settings(BaseSettings):
    """Made once, where the process starts, and handed down; nothing else reads the environment.

    Raises pydantic's ValidationError naming each bad value.
    """

    model_config = SettingsConfigDict(env_prefix="GODEL_", frozen=True, use_attribute_docstrings=True)

    admin_key: SecretStr | None = None
    """The key that makes other keys; at least 16 characters, such as `openssl rand -hex 32` prints. Without it no
    key is asked for, and only this machine is served."""

    host: str = "127.0.0.1"
    """Address to listen on. Another than loopback needs `GODEL_ADMIN_KEY`."""

    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one and logs it."""

    database_url: str = "sqlite:///state/godel.db"
    """Where bots are kept, as SQLAlchemy spells it. Outside build/, so that cleaning up loses no bot."""

    database_timeout: float = Field(default=10.0, ge=0.1, le=3600)
    """Seconds that a request waits for the database: for a lock, a free connection, an answer."""

    inference_url: HttpAddress = "http://127.0.0.1:8080"
    """TorchServe's inference address."""

    management_url: HttpAddress = "http://127.0.0.1:8081"
    """TorchServe's management address: readiness and the facts about the model come from it."""

    torchserve_keys: Path | None = None
    """The `key_file.json` that TorchServe writes where it asks for keys (`disable_token_authorization=false`), as it
    should wherever it is not on loopback. Read again when a key is refused."""

    keep_connections: bool = True
    """Whether connections to TorchServe are used again. Not behind a load balancer that chooses by connection, as a
    Service of Kubernetes does: kept ones would pin the load, and go on to reach a server that is about to end."""

    model_name: str = Field(default="godel", pattern=r"^[A-Za-z0-9._-]{1,64}$")
    """The name the model is registered under in TorchServe."""

    tokenizer: Path = Path("model_store/godel.mar")
    """A `tokenizer.json`, or the served `.mar` that holds one: prompts are counted as the model counts them."""

    prompt_budget: int = Field(default=512, ge=32, le=65_536)
    """Most tokens in a prompt. GODEL was trained on 512; the archive's `max_prompt_tokens` caps it."""

    request_timeout: float = Field(default=60.0, gt=0, le=3600)
    """Seconds an answer may take. Travels with the request as its deadline: late, the model returns what it has."""

    shutdown_grace: int = Field(default=30, ge=0, le=3600)
    """Seconds that requests in flight get to finish after SIGTERM. TorchServe itself cannot drain."""

    receive_timeout: float = Field(default=20.0, gt=0, le=3600)
    """Seconds that a client gets to send a request's head; its body gets as long, and a second more every 500 bytes."""

    send_timeout: float = Field(default=30.0, gt=0, le=3600)
    """Seconds after which a client that takes nothing of what it is sent is let go."""

    max_connections: int = Field(default=2048, ge=1, le=65_536)
    """Most clients connected at a time, idle ones too; beyond it new ones get 503 at once."""

    max_message_characters: int = Field(default=32_768, ge=1, le=65_536)
    """Longest message. Far above any prompt budget, yet what a request line can carry percent-encoded."""

    max_knowledge_characters: int = Field(default=1_000_000, ge=1, le=50_000_000)
    """Longest knowledge of one bot: some 300 pages."""

    max_document_bytes: int = Field(default=20_000_000, ge=1, le=500_000_000)
    """Largest upload: a PDF of 300 pages with pictures."""

    session_idle_hours: float = Field(default=720, gt=0, le=87_600)
    """Hours without a word after which a session is forgotten: 30 days."""

    max_sessions: int = Field(default=100_000, ge=1, le=MAX_LIMIT)
    """Most sessions of one bot at a time: nobody fills the database by beginning conversations."""

    max_exchanges: int = Field(default=10_000, ge=1, le=MAX_LIMIT)
    """Most messages answered in one session."""

    requests_per_minute: int | None = Field(default=None, ge=1, le=MAX_LIMIT)
    """How many questions a key may ask, unless it has a limit of its own. Bots have theirs beside it."""

    tokens_per_minute: int | None = Field(default=None, ge=1, le=MAX_LIMIT)
    """How many tokens, of prompts and answers together."""

    redis_url: SecretStr | None = None
    """A Redis (`redis://host:6379`) in which several gateways count together; without it each counts alone."""

    max_in_flight: int = Field(default=16, ge=1, le=4096)
    """Most requests at the model at a time: as many as it has slots. More would wait where nobody takes turns, and
    answer no sooner; fewer leave slots empty. With several instances behind `GODEL_INFERENCE_URL`, the slots of all."""

    max_waiting: int = Field(default=256, ge=0, le=65_536)
    """Most requests that wait for that, half of them for one bot; beyond it they are refused at once."""

    max_queue_seconds: float = Field(default=5.0, gt=0, le=3600)
    """Longest wait for that. Who would wait longer, at the pace at which answers came of late, is refused at once:
    whoever is let in gets an answer soon, however many come."""

    moderator: str | None = Field(default=None, pattern=r"^[\w.]+:[\w.]+$")
    """What checks questions and answers, as `module:name`; `gateway.moderation:WordList` comes with the gateway."""

    moderation_words: Path | None = None
    """The words that WordList refuses, one a line."""

    tracing: bool = False
    """Whether requests are traced; where to is said by OTEL_EXPORTER_OTLP_ENDPOINT. Needs requirements/tracing.txt."""

    @field_validator("admin_key", mode="before")
    @classmethod
    def _trim_admin_key(cls, value: object) -> object:
        # Secrets are often kept in files that end with a line end, which no header can carry.
        return value.strip() if isinstance(value, str) else value

    @field_validator("admin_key")
    @classmethod
    def _check_admin_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value) < MIN_ADMIN_KEY:
            raise ValueError(f"must have at least {MIN_ADMIN_KEY} characters, as `openssl rand -hex 32` prints them")
        if value is not None and not (value.get_secret_value().isascii() and value.get_secret_value().isprintable()):
            raise ValueError("must be printable ASCII, since it is sent in a header")
        return value

    @field_validator("redis_url")
    @classmethod
    def _check_redis_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().partition("://")[0].startswith("redis"):
            raise ValueError("must be an address like redis://host:6379")
        return value

    @field_validator("host")
    @classmethod
    def _check_host(cls, value: str, info: ValidationInfo) -> str:
        # A bad admin key is not in `data`: it has a message of its own, and no key is no excuse.
        if not is_loopback(value) and info.data.get("admin_key", True) is None:
            raise ValueError(
                f"without keys {value or 'every address'} is not served: set GODEL_ADMIN_KEY, or 127.0.0.1"
            )
        return value

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """How much the gateway logs. Users' text is logged at no level."""

    log_format: Literal["text", "json"] = "text"
    """Lines for people, or objects for machines."""
