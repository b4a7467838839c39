"""Clients that write, ask and read streams without a pause, and remember what they were promised.

Each has a bot, a session and a marker of its own. Promised is what was acknowledged: a bot written with 200, a message
answered with 200, a stream that came to its `answer`. Afterwards `check` reads all of it back.
"""

import itertools
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Self

import httpx

from tests.faults.report import Outcome
from tests.gateway.events import parse

PAUSE_SECONDS = 0.05
"""After a failure: a client that does not wait at all would only measure how fast refusals are."""

IN_A_ROW = 3
"""So many successes of every client mean that the service is back."""

_MARK = re.compile(r"mark\d+end")
_numbers = itertools.count(1)


class WrongAnswerError(AssertionError):
    """A client got what is another's, or an answer that is none."""


@dataclass
class Client:
    """One client, what it was promised and what became of each request."""

    bot: str
    mark: str
    session: str = ""
    version: int = 0
    """The last version of the knowledge that was acknowledged."""
    tried_version: int = 0
    exchanges: list[tuple[str, str]] = field(default_factory=list)
    """Messages and answers that were acknowledged."""
    tried: set[str] = field(default_factory=set)
    deeds: list[tuple[float, float, str]] = field(default_factory=list)
    """Start, end and outcome of each request."""
    unanswered: list[str] = field(default_factory=list)
    """The ids of requests of which no answer, or not the whole of it, came back."""
    wrong: Exception | None = None

    @property
    def well(self) -> int:
        """How many of the last requests in a row were answered."""
        return sum(1 for _ in itertools.takewhile(lambda deed: deed[2] == "200", reversed(self.deeds)))


class Load:
    """Some clients at work; use it as a context manager. Leaving it stops them and checks every promise."""

    def __init__(
        self, url: str, *, clients: int = 4, timeout: float = 40, writes: bool = True, talk: bool = True
    ) -> None:
        """`timeout`: a client that waits longer for anything calls it a hang, which fails the test."""
        self.url, self._timeout, self._writes, self._talk = url, timeout, writes, talk
        self._stop = threading.Event()
        self.checks = True
        """Whether leaving it checks; else `check` is still to be called, with an address where there is a gateway."""
        self.clients = []
        for number in itertools.islice(_numbers, clients):
            self.clients.append(Client(bot=f"bot-{number}", mark=f"mark{number}end"))
        self._threads = [threading.Thread(target=self._work, args=(client,)) for client in self.clients]

    def __enter__(self) -> Self:
        with self._http() as http:
            for client in self.clients:
                self._write(http, client)
                session = http.post(f"/v1/bots/{client.bot}/sessions").raise_for_status().json()
                client.session = session["session_id"]
        for thread in self._threads:
            thread.start()
        try:
            self.until(lambda: all(client.well >= IN_A_ROW for client in self.clients), 30)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.stop()
        if kind is None and self.checks:
            self.check()

    def stop(self) -> None:
        """Let every client finish the request it is at."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def until(self, claim: Callable[[], bool], seconds: float) -> None:
        """Wait until `claim` holds. Raises AssertionError when it does not within `seconds`."""
        end = time.monotonic() + seconds
        while not claim():
            for client in self.clients:
                if client.wrong:
                    raise client.wrong
            assert time.monotonic() < end, f"not within {seconds} s: {self.seen()}"
            time.sleep(0.02)

    def until_back(self, since: float, *, failing: bool = True, seconds: float = 60) -> float:
        """Wait until all are served again; return how many seconds after `since` the last of them was.

        With `failing` some request must have failed before.
        """
        if failing:
            self.until(lambda: any(end > since and what != "200" for end, what in self._ends()), seconds)
        marks = {client.bot: len(client.deeds) for client in self.clients}

        def served_since() -> bool:
            return all(
                client.well >= IN_A_ROW and len(client.deeds) >= marks[client.bot] + IN_A_ROW for client in self.clients
            )

        self.until(served_since, seconds)
        return max(_back(client, since) for client in self.clients)

    def seen(self, since: float = 0.0) -> Counter[str]:
        """Return how often what came of requests that ended after `since`."""
        return Counter(what for end, what in self._ends() if end > since)

    def slowest(self) -> float:
        """Return the seconds of the request that took longest."""
        return max((end - start for client in self.clients for start, end, _ in list(client.deeds)), default=0.0)

    def outcome(self, since: float, recovered: float | None) -> Outcome:
        """Return what happened since the fault; call it after `check`."""
        return Outcome(
            seen=dict(self.seen(since)),
            recovered=recovered,
            slowest=self.slowest(),
            promised=sum(client.version + len(client.exchanges) for client in self.clients),
            lost=0,
        )

    def check(self, url: str | None = None) -> None:
        """Read everything back. Raises AssertionError when a promise is broken."""
        for client in self.clients:
            if client.wrong:
                raise client.wrong
        with self._http(url) as http:
            for client in self.clients:
                self._check(http, client)

    def _check(self, http: httpx.Client, client: Client) -> None:
        knowledge = http.get(f"/v1/bots/{client.bot}").raise_for_status().json()["knowledge"]
        found = re.fullmatch(rf"{client.mark} version (\d+)", knowledge)
        assert found, f"{client.bot} holds what was not written: {knowledge}"
        assert client.version <= int(found[1]) <= client.tried_version, "an acknowledged version is lost"
        kept: list[tuple[str, str]] = []
        after: int | None = 0
        while after is not None:
            page = http.get(
                f"/v1/bots/{client.bot}/sessions/{client.session}", params={"limit": 200, "after": after}
            ).raise_for_status()
            kept += [(turn["message"], turn["response"]) for turn in page.json()["turns"]]
            after = page.json()["next_after"]
        for message, response in kept:
            assert message in client.tried, f"a message of somebody else's: {message}"
            _check_marks(response, client)
        rest = iter(kept)
        lost = [exchange for exchange in client.exchanges if exchange not in rest]
        assert not lost, f"{len(lost)} of {len(client.exchanges)} acknowledged exchanges are lost"

    def _http(self, url: str | None = None) -> httpx.Client:
        return httpx.Client(base_url=url or self.url, timeout=self._timeout, trust_env=False)

    def _ends(self) -> Iterator[tuple[float, str]]:
        return ((end, what) for client in self.clients for _, end, what in list(client.deeds))

    def _work(self, client: Client) -> None:
        kinds = [self._write] * self._writes + [self._ask, self._read_along] * self._talk
        with self._http() as http:
            for turn in itertools.count():
                if self._stop.is_set():
                    return
                start = time.monotonic()
                try:
                    what = kinds[turn % len(kinds)](http, client)
                except httpx.TimeoutException:
                    what = "hang"
                    client.wrong = WrongAnswerError(f"a request was not answered within {self._timeout} s")
                except httpx.ConnectError:
                    what = "connection refused"
                except httpx.TransportError as error:
                    # Where nothing of an answer came, the request may have met a connection that was just closing.
                    cut = "incomplete" in str(error) or "without sending complete" in str(error)
                    what = "connection cut" if cut else "connection closed"
                    client.unanswered.append(_request_id(client))
                except Exception as error:
                    what, client.wrong = "wrong", error
                client.deeds.append((start, time.monotonic(), what))
                if what != "200":
                    self._stop.wait(PAUSE_SECONDS)

    def _write(self, http: httpx.Client, client: Client) -> str:
        version = client.tried_version = client.tried_version + 1
        body = {"knowledge": f"{client.mark} version {version}", "parameters": {"do_sample": False}}
        what = self._sent(http.build_request("PUT", f"/v1/bots/{client.bot}", json=body), http, client)[0]
        if what == "200":
            client.version = version
        return what

    def _ask(self, http: httpx.Client, client: Client) -> str:
        return self._talked(http, client, stream=False)

    def _read_along(self, http: httpx.Client, client: Client) -> str:
        return self._talked(http, client, stream=True)

    def _talked(self, http: httpx.Client, client: Client, *, stream: bool) -> str:
        message = f"{client.mark} asks {len(client.tried)}?"
        client.tried.add(message)
        body = {"message": message, "session_id": client.session, "stream": stream}
        what, text = self._sent(http.build_request("POST", f"/v1/bots/{client.bot}/chat", json=body), http, client)
        if what != "200":
            return what
        if stream:
            *parts, last = parse(text)
            if last.name == "problem":
                return f"200, then problem {json.loads(last.data)['status']}"
            response = json.loads(last.data)["response"]
            if last.name != "answer" or "".join(json.loads(part.data)["text"] for part in parts) != response:
                raise WrongAnswerError(f"a stream without its answer: {last}")
        else:
            response = json.loads(text)["response"]
        _check_marks(response, client)
        if client.mark not in response:
            raise WrongAnswerError(f"{client.bot} got an answer to nothing of its own: {response}")
        client.exchanges.append((message, response))
        return what

    @staticmethod
    def _sent(request: httpx.Request, http: httpx.Client, client: Client) -> tuple[str, str]:
        request.headers["X-Request-ID"] = request_id = _request_id(client)
        response = http.send(request)
        if response.headers.get("X-Request-ID") != request_id:
            raise WrongAnswerError(f"{request_id} got the answer to {response.headers.get('X-Request-ID')}")
        if response.is_success:
            return "200", response.text
        if response.headers["content-type"] != "application/problem+json":
            raise WrongAnswerError(f"no clean error: {response.status_code} {response.text[:200]}")
        if response.json()["request_id"] != request_id:
            raise WrongAnswerError("the problem of somebody else")
        if response.status_code == 503 and int(response.headers["Retry-After"]) < 1:
            raise WrongAnswerError("503 without a time to come back")
        return str(response.status_code), ""


def _request_id(client: Client) -> str:
    return f"{client.mark}-{len(client.deeds)}"


def _back(client: Client, since: float) -> float:
    """Return when the first request after the last failed one was answered; 0 when none failed."""
    deeds = list(client.deeds)
    failed = [place for place, (_, end, what) in enumerate(deeds) if end > since and what != "200"]
    return deeds[failed[-1] + 1][1] - since if failed else 0.0


def _check_marks(text: str, client: Client) -> None:
    foreign = set(_MARK.findall(text)) - {client.mark}
    if foreign:
        raise WrongAnswerError(f"{client.bot} got words of {foreign}")
