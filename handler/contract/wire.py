"""The JSON between the gateway and the handler: one request, one reply or one failure, each versioned.

A request with `stream` is answered in lines of JSON: parts of the text as they are made, last the reply or a failure.

Times are seconds since the epoch where two processes compare them, milliseconds where a person reads them.
"""

import json
import re
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NoReturn, Self, get_args

from handler.contract.generation import GenerationParameters, ParameterError
from handler.contract.prompt import FORMAT_VERSION

FinishReason = Literal["stop", "length", "deadline"]
_FINISH_REASONS: Final = get_args(FinishReason)
"""`stop`: the model ended its answer; `length`: max_length was reached; `deadline`: time ran out."""

MAX_PROMPT_CHARACTERS: Final = 65_536
"""A guard for the parser; the model's own limit, in tokens, is checked by the handler."""

REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
"""What a request id may be: short and harmless in a log line, a header and a metric."""


LAST_MOMENT: Final = 1e11
"""The year 5138, in seconds since the epoch: what lies beyond is a mistake, milliseconds for example."""

DESCRIBE_HEADER: Final = "describe"
"""A prediction with this header set to `True` is answered with what is served, its body unread."""


class WireError(ValueError):
    """A message that the other side must refuse; carries what goes into the failure reply."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        problems: dict[str, str] | None = None,
        *,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status: Final = status
        self.code: Final = code
        self.message: Final = message
        self.problems: Final = problems or {}
        self.request_id: Final = request_id
        """That of the message, where it had a good one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """One prompt to answer."""

    prompt: str
    request_id: str
    parameters: GenerationParameters = field(default_factory=GenerationParameters)
    submitted_at: float = 0.0
    """When the gateway sent it; 0 when unknown. The handler derives the queue time from it."""
    deadline: float | None = None
    """When the answer is of no more use; the handler then returns what it has."""
    stream: bool = False
    """Whether the text is wanted part by part."""

    def encode(self) -> bytes:
        """Return the JSON text of this request."""
        return _dump(
            {
                "format_version": FORMAT_VERSION,
                "request_id": self.request_id,
                "prompt": self.prompt,
                "parameters": self.parameters.to_mapping(),
                "submitted_at": self.submitted_at,
                "deadline": self.deadline,
                "stream": self.stream,
            }
        )

    @classmethod
    def decode(cls, body: bytes | bytearray | str) -> Self:
        """Return the request in `body`. Raises WireError (400 or 422) saying what is wrong with it."""
        message = _load(body)
        _check_version(message)
        prompt, request_id = message.get("prompt"), message.get("request_id")
        problems: dict[str, str] = {}
        if not isinstance(prompt, str) or not prompt.strip():
            problems["prompt"] = "must be text that is not blank"
        elif len(prompt) > MAX_PROMPT_CHARACTERS:
            problems["prompt"] = f"has {len(prompt)} characters, more than {MAX_PROMPT_CHARACTERS}"
        elif not _encodable(prompt):
            problems["prompt"] = "must be text that UTF-8 can hold"  # JSON can spell half a character, as \ud800
        if not isinstance(request_id, str) or not REQUEST_ID.fullmatch(request_id):
            problems["request_id"] = f"must match {REQUEST_ID.pattern}"
        for name in ("submitted_at", "deadline"):
            if not _is_moment(message.get(name)):
                problems[name] = "must be seconds since the epoch"
        stream = message.get("stream", False)
        if not isinstance(stream, bool):
            problems["stream"] = "must be true or false"
        parameters = message.get("parameters", {})
        if not isinstance(parameters, dict):
            problems["parameters"] = "must be an object"
        else:
            try:
                decoded = GenerationParameters.from_mapping(parameters)
            except ParameterError as error:
                problems |= {f"parameters.{name}": problem for name, problem in error.problems.items()}
        if problems:
            text = "; ".join(f"{name} {problem}" for name, problem in problems.items())
            named = None if "request_id" in problems else str(request_id)
            raise WireError(422, "invalid_request", text, problems, request_id=named)
        return cls(
            prompt=str(prompt),
            request_id=str(request_id),
            parameters=decoded,
            submitted_at=float(message.get("submitted_at") or 0.0),
            deadline=None if message.get("deadline") is None else float(message["deadline"]),
            stream=stream,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateReply:
    """The answer to one prompt and what it took."""

    request_id: str
    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    queue_ms: float
    """From `submitted_at` to the start of encoding; 0 when `submitted_at` is unknown."""
    compute_ms: float
    """From the start of encoding to the last token, steps shared with other requests included."""
    batch_size: int
    """The most requests that shared a step with this one, itself included."""

    def encode(self) -> bytes:
        """Return the JSON text of this reply."""
        return _dump({"format_version": FORMAT_VERSION} | {name: getattr(self, name) for name in self.__slots__})


def encode_failure(error: WireError, request_id: str | None = None) -> bytes:
    """Return the JSON text of the failure reply for `error`."""
    failure = {"status": error.status, "code": error.code, "message": error.message, "problems": error.problems}
    return _dump({"format_version": FORMAT_VERSION, "request_id": request_id, "error": failure})


def encode_part(text: str) -> bytes:
    """Return the line that carries one part of a streamed text."""
    return _dump({"format_version": FORMAT_VERSION, "part": text}) + b"\n"


def decode_line(line: bytes | bytearray | str) -> str | GenerateReply:
    """Return what a line of a streamed answer holds: a part of the text, or the reply that ends it.

    Raises WireError as `decode_reply` does.
    """
    message = _load_reply(line)
    part = message.get("part")
    return part if isinstance(part, str) else _reply(message)


def decode_reply(body: bytes | bytearray | str) -> GenerateReply:
    """Return the reply in `body`. Raises WireError: the failure it holds, or 502 when it is neither."""
    return _reply(_load_reply(body))


def _load_reply(body: bytes | bytearray | str) -> dict[str, Any]:
    try:
        message = _load(body)
        _check_version(message)
    except WireError as error:
        raise WireError(502, "bad_reply", f"the model's reply cannot be read: {error.message}") from error
    return message


def _reply(message: dict[str, Any]) -> GenerateReply:
    failure = message.get("error")
    if isinstance(failure, dict):
        status, problems = failure.get("status"), failure.get("problems")
        raise WireError(
            status if isinstance(status, int) and 400 <= status <= 599 else 502,
            str(failure.get("code", "bad_reply")),
            str(failure.get("message", "the model failed without saying why")),
            problems if isinstance(problems, dict) else None,
        )
    kinds: dict[str, Any] = dict.fromkeys(("request_id", "text", "finish_reason"), str)
    kinds |= dict.fromkeys(("prompt_tokens", "completion_tokens", "batch_size"), int)
    kinds |= dict.fromkeys(("queue_ms", "compute_ms"), (int, float))
    wrong = [name for name, kind in kinds.items() if not isinstance(message.get(name), kind)]
    if wrong or message["finish_reason"] not in _FINISH_REASONS:
        raise WireError(502, "bad_reply", f"the model's reply has a bad {wrong[0] if wrong else 'finish_reason'}")
    return GenerateReply(**{name: message[name] for name in kinds})


def _is_moment(value: object) -> bool:
    if value is None:
        return True
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= LAST_MOMENT


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def _dump(message: dict[str, Any]) -> bytes:
    return _ENCODER.encode(message).encode("utf-8", "replace")


def _load(body: bytes | bytearray | str) -> dict[str, Any]:
    try:
        message = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError, TypeError) as error:  # TypeError: TorchServe can be set to parse bodies itself
        raise WireError(400, "invalid_json", "the body is not JSON in UTF-8") from error
    if not isinstance(message, dict):
        raise WireError(400, "invalid_json", "the body must be a JSON object")
    return message


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _check_version(message: dict[str, Any]) -> None:
    version = message.get("format_version")
    if version != FORMAT_VERSION or isinstance(version, bool):
        shown = version if isinstance(version, int) else "missing or no number"
        raise WireError(400, "unsupported_format", f"format_version is {shown}; this side speaks {FORMAT_VERSION}")
