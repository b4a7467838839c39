"""What a person does: one kind of request each, its answer checked, its end told."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import httpx

from bench.load.people import LONGEST_SESSION, QUESTION, BrokenPromise, Doubt, Person, Session

Ending = Literal["done", "refused", "late", "left", "broken"]
"""`refused`: 429 or 503, with the time to come again. `late`: no answer before the deadline, 504."""

GREEDY: Final = {"do_sample": False, "max_length": 40}
LONGEST_STAY: Final = 0.4
"""Seconds after which at the latest somebody leaves who does not wait for the answer."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an action ended; what broke is told in words."""

    ending: Ending
    first_text: float | None = None
    """Seconds until the first part of a stream."""
    detail: str = ""


RETRIES: Final = 120
"""How often a doubtful answer is asked for again, a second apart, while the service is too busy."""


@dataclass(slots=True)
class Town:
    """The people's way to the service, and the sessions that were begun, to be read back in the end."""

    http: httpx.AsyncClient
    past: list[tuple[Person, Session]] = field(default_factory=list)
    mistakes: int = 0
    """Answers that missed the question, and were the same when asked for again: the model's own."""


Action = Callable[[Town, Person], Awaitable[Outcome]]


class _Refused(Exception):  # noqa: N818 - an ending like others
    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.detail)
        self.outcome = outcome


async def act(kind: str, town: Town, person: Person) -> Outcome:
    """Do one thing; whatever happens is an outcome."""
    try:
        return await ACTIONS[kind](town, person)
    except _Refused as refused:
        return refused.outcome
    except BrokenPromise as broken:
        return Outcome("broken", detail=str(broken))
    except (httpx.HTTPError, ValueError, LookupError) as error:
        return Outcome("broken", detail=f"{kind}: {type(error).__name__}: {error}")


async def chat(town: Town, person: Person) -> Outcome:
    """Ask for an answer, whole."""
    reply = await town.http.post(f"/v1/bots/{person.bot_id}/chat", json=_said(QUESTION))
    await _check(town, person, [], QUESTION, _good(reply)["response"])
    return Outcome("done")


async def stream(town: Town, person: Person) -> Outcome:
    """Ask for an answer in parts; they must make up the whole."""
    start, first, parts = time.perf_counter(), None, list[str]()
    body = _said(QUESTION) | {"stream": True}
    async with town.http.stream("POST", f"/v1/bots/{person.bot_id}/chat", json=body) as reply:
        if not reply.is_success:
            await reply.aread()
            _good(reply)
        name = ""
        async for line in reply.aiter_lines():
            kind, _, content = line.partition(": ")
            if kind == "event":
                name = content
            elif kind == "data":
                event = json.loads(content)
                match name:
                    case "part":
                        first = time.perf_counter() - start if first is None else first
                        parts.append(event["text"])
                    case "answer":
                        if "".join(parts) != event["response"]:
                            raise BrokenPromise(f"the parts {parts} are not the answer {event['response']!r}")
                        await _check(town, person, [], QUESTION, event["response"])
                        return Outcome("done", first_text=first)
                    case "problem":
                        raise _Refused(_ending(event["status"], "1", event["detail"]))
    raise BrokenPromise("a stream stopped before its end, without a word")


async def turn(town: Town, person: Person) -> Outcome:
    """Say something in a session, begun when there is none or it has become long."""
    if person.session is None or person.session.said == LONGEST_SESSION:
        reply = await town.http.post(f"/v1/bots/{person.bot_id}/sessions")
        person.session = Session(_good(reply)["session_id"])
        town.past.append((person, person.session))
    session = person.session
    session.said += 1
    message = f"This is note {session.said} of {person.bot_id}. {QUESTION}"
    session.unknown.add(message)
    reply = await town.http.post(
        f"/v1/bots/{person.bot_id}/chat", json=_said(message) | {"session_id": session.session_id}
    )
    if reply.status_code in (429, 503, 504):  # each of them says that nothing was remembered
        session.unknown.discard(message)
    answer = _good(reply)["response"]
    session.unknown.discard(message)
    before, clear = list(session.acknowledged), not session.unknown
    session.acknowledged.append((message, answer))
    await _check(town, person, before, message, answer, certain=clear)
    return Outcome("done")


async def edit(town: Town, person: Person) -> Outcome:
    """Change what the bot knows."""
    version = person.change()
    body = {"knowledge": person.knowledge(version)}
    return _changed(person, version, await town.http.patch(f"/v1/bots/{person.bot_id}", json=body))


async def upload(town: Town, person: Person) -> Outcome:
    """Change what the bot knows, by a document."""
    version = person.change()
    file = {"file": ("notes.txt", person.knowledge(version).encode(), "text/plain")}
    return _changed(person, version, await town.http.put(f"/v1/bots/{person.bot_id}/knowledge", files=file))


async def read(town: Town, person: Person) -> Outcome:
    """Read the bot, and the session that is under way."""
    person.check_knowledge(_good(await town.http.get(f"/v1/bots/{person.bot_id}"))["knowledge"])
    if person.session is not None:
        await read_back(town, person, person.session)
    return Outcome("done")


async def leave(town: Town, person: Person) -> Outcome:
    """Ask in one of three ways and be gone before the answer, most often."""
    kind = person.rng.choice(("chat", "stream", "turn"))
    try:
        async with asyncio.timeout(person.rng.uniform(0, LONGEST_STAY)):
            return await ACTIONS[kind](town, person)
    except TimeoutError:
        return Outcome("left")


async def read_back(town: Town, person: Person, session: Session) -> None:
    """Read a whole session. Raises BrokenPromise unless it is what its person remembers."""
    turns: list[tuple[str, str]] = []
    after: int | None = 0
    while after is not None:
        page = _good(
            await town.http.get(
                f"/v1/bots/{person.bot_id}/sessions/{session.session_id}", params={"limit": 200, "after": after}
            )
        )
        turns += [(each["message"], each["response"]) for each in page["turns"]]
        after = page["next_after"]
    session.check(turns)


async def settle(town: Town, person: Person) -> None:
    """Make the bot. Raises httpx.HTTPError."""
    body = {"knowledge": person.knowledge(0), "parameters": GREEDY}
    (await town.http.put(f"/v1/bots/{person.bot_id}", json=body)).raise_for_status()


async def _check(
    town: Town, person: Person, before: list[tuple[str, str]], message: str, answer: str, *, certain: bool = True
) -> None:
    """Raise BrokenPromise unless the answer is the bot's own.

    One that does not show it must come again, to the letter, when the same is asked once more. Where what was said
    before is not `certain`, for somebody left in the middle of it, the same cannot be asked.
    """
    try:
        person.check_answer(answer)
    except Doubt:
        roles = ("user", "assistant")
        messages = [{"role": role, "content": text} for pair in before for role, text in zip(roles, pair, strict=True)]
        messages.append({"role": "user", "content": message})
        for _ in range(RETRIES if certain else 0):
            reply = await town.http.post(f"/v1/bots/{person.bot_id}/chat", json={"messages": messages})
            if reply.status_code not in (429, 503):
                again = _good(reply)["response"]
                if again != answer:
                    raise BrokenPromise(f"{person.bot_id} answered {answer!r}, and {again!r} to the same") from None
                break
            await asyncio.sleep(1)
        town.mistakes += 1


def _said(message: str) -> dict[str, Any]:
    return {"message": message}


def _good(reply: httpx.Response) -> Any:
    """Return the JSON of a reply that is one; anything else ends the action."""
    if not reply.is_success:
        raise _Refused(_ending(reply.status_code, reply.headers.get("retry-after"), reply.text[:300]))
    return reply.json()


def _ending(status: int, retry_after: str | None, detail: str) -> Outcome:
    if status in (429, 503):
        if retry_after is None or not retry_after.isdecimal():
            return Outcome("broken", detail=f"{status} without Retry-After: {detail}")
        return Outcome("refused", detail=detail)
    return Outcome("late" if status == 504 else "broken", detail=f"{status}: {detail}")


def _changed(person: Person, version: int, reply: httpx.Response) -> Outcome:
    _good(reply)
    person.changed(version)
    return Outcome("done")


ACTIONS: Final[dict[str, Action]] = {
    "chat": chat,
    "stream": stream,
    "turn": turn,
    "edit": edit,
    "upload": upload,
    "read": read,
    "leave": leave,
}

MIX: Final = {"chat": 40, "stream": 20, "turn": 18, "edit": 5, "upload": 3, "read": 9, "leave": 5}
"""How often of a hundred times somebody does what. Four in five want the model."""

NEED_THE_MODEL: Final = frozenset({"chat", "stream", "turn", "leave"})
