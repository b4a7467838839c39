"""Clients that talk to bots of their own, all at once, and keep what they were told."""

import collections
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from handler.contract.generation import GenerationParameters
from tests.cluster.topology import HEADERS, REQUEST_SECONDS

WORDS: Final = ("Amber", "Basalt", "Cobalt", "Damask", "Ebony", "Fuchsia", "Garnet", "Hazel")
"""The secret of each client's bot; in an answer to another client it would have gone astray."""

CLEAN: Final = frozenset({502, 503, 504})
"""How a request may fail while something breaks: told at once, in the usual format, and worth another try."""

TURNS: Final = 6
"""After so many the client begins a new session."""

PAUSE_SECONDS: Final = 0.2
"""How long a refused client waits before it asks again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a request."""

    client: int
    session: str
    asked_at: float
    seconds: float
    status: int
    """0 for a connection that broke."""
    text: str = ""
    deployment: str | None = None
    problem: str = ""


@dataclass(slots=True)
class Load:
    """What many clients experienced."""

    outcomes: list[Outcome] = field(default_factory=list)
    sessions: list[tuple[int, str]] = field(default_factory=list)

    @property
    def answered(self) -> list[Outcome]:
        """The requests that got their answer."""
        return [each for each in self.outcomes if each.status == 200]

    @property
    def failed(self) -> list[Outcome]:
        """Those that did not."""
        return [each for each in self.outcomes if each.status != 200]

    def by_deployment(self) -> dict[str | None, int]:
        """Return how many answers came from which version."""
        return dict(collections.Counter(each.deployment for each in self.answered))

    def summary(self) -> str:
        """Return what happened, in a line."""
        slowest = max((each.seconds for each in self.outcomes), default=0.0)
        failures = dict(collections.Counter(f"{each.status} {each.problem}".strip() for each in self.failed))
        return f"{len(self.answered)} answered, {len(self.failed)} failed {failures or ''}, slowest {slowest:.1f} s"


@contextmanager
def load(url: str, *, clients: int = len(WORDS), **parameters: Any) -> Iterator[Load]:
    """Have clients ask at `url`, one question after the other, while the block runs; each ends with its answer.

    Their bots are there before. The sockets are made where the calling thread is.
    """
    experienced, stop, lock = Load(), threading.Event(), threading.Lock()
    chosen = {"do_sample": False, "min_length": 4, "max_length": 16} | parameters
    GenerationParameters.from_mapping(chosen)

    def ask(number: int) -> None:
        with httpx.Client(base_url=url, headers=HEADERS, timeout=2 * REQUEST_SECONDS) as http:
            session, left = "", 0
            while not stop.is_set():
                if not left:
                    session = _begin(http, number)
                    if not session:
                        stop.wait(PAUSE_SECONDS)
                        continue
                    left = TURNS
                    with lock:
                        experienced.sessions.append((number, session))
                outcome = _ask(http, number, session, chosen)
                left -= 1
                with lock:
                    experienced.outcomes.append(outcome)
                if outcome.status != 200:
                    stop.wait(PAUSE_SECONDS)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield experienced
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def make_bots(url: str) -> None:
    """Make the bot of each client."""
    for number, word in enumerate(WORDS):
        knowledge = f"The secret word of this house is {word}. {word} is written above the door."
        made = httpx.put(f"{url}/v1/bots/bot{number}", json={"knowledge": knowledge}, headers=HEADERS, timeout=10)
        assert made.is_success, made.text


def exchanges(url: str, client: int, session: str) -> list[str]:
    """Return the answers that a session remembers, in order."""
    found = httpx.get(f"{url}/v1/bots/{_bot(client)}/sessions/{session}", headers=HEADERS, timeout=10)
    assert found.is_success, found.text
    return [each["response"] for each in found.json()["turns"]]


def astray(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return the answers that hold another client's secret."""
    return [
        each for each in outcomes if any(word in each.text for word in WORDS if word != WORDS[each.client % len(WORDS)])
    ]


def _bot(client: int) -> str:
    return f"bot{client % len(WORDS)}"


def _begin(http: httpx.Client, client: int) -> str:
    try:
        made = http.post(f"/v1/bots/{_bot(client)}/sessions")
    except httpx.TransportError:
        return ""
    return str(made.json()["session_id"]) if made.status_code == 201 else ""


def _ask(http: httpx.Client, client: int, session: str, parameters: dict[str, Any]) -> Outcome:
    asked_at = time.monotonic()
    said = {"message": "What is the secret word?", "session_id": session, "parameters": parameters}
    text, deployment, problem, status = "", None, "", 0
    try:
        reply = http.post(f"/v1/bots/{_bot(client)}/chat", json=said)
        status, body = reply.status_code, reply.json()
        if status == 200:
            text, deployment = body["response"], body["deployment"]
        else:
            problem = str(body["type"])
    except (httpx.TransportError, ValueError, KeyError) as error:
        status, problem = 0, type(error).__name__
    return Outcome(
        client=client,
        session=session,
        asked_at=asked_at,
        seconds=time.monotonic() - asked_at,
        status=status,
        text=text,
        deployment=deployment,
        problem=problem,
    )
