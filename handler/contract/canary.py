"""The smallest question to a model: whoever gets an answer to it knows that the model answers."""

from handler.contract.generation import GenerationParameters
from handler.contract.prompt import render
from handler.contract.wire import GenerateRequest


def canary(now: float, seconds: float) -> GenerateRequest:
    """Return a request for one token, of use for `seconds` from `now` (seconds since the epoch)."""
    return GenerateRequest(
        prompt=render(["Hello."]),
        request_id="canary",
        parameters=GenerationParameters(max_length=1, min_length=0, do_sample=False),
        submitted_at=now,
        deadline=now + seconds,
    )
