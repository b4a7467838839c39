"""What fails is started again, also when a start fails at first, and only so often."""

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from launcher import serve
from launcher.stack import GATEWAY, Stack
from launcher.torchserve import StartError


class Failing:
    """A stack whose gateway has ended, and starts when it has been tried `failures` times in vain."""

    def __init__(self, failures: int, stopping: threading.Event) -> None:
        self.torchserve = SimpleNamespace(new_warnings=list, logs=Path("logs"))
        self.tries, self._failures, self._stopping = 0, failures, stopping
        self._dead = True

    def failed(self) -> tuple[str, str] | None:
        if not self._dead:
            self._stopping.set()
        return (GATEWAY, "ended unexpectedly") if self._dead else None

    def revive(self, name: str) -> None:
        assert name == GATEWAY
        self.tries += 1
        if self.tries <= self._failures:
            raise StartError("the database is locked")
        self._dead = False


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "LONGEST_BACK_OFF_SECONDS", 0)


def test_a_start_that_fails_is_tried_again(capfd: pytest.CaptureFixture[str]) -> None:
    stopping = threading.Event()
    stack = Failing(2, stopping)
    serve._watch(cast("Stack", stack), stopping)
    assert stack.tries == 3
    printed = capfd.readouterr()
    assert "the gateway could not be started: the database is locked" in printed.err
    assert "the gateway is back" in printed.out


def test_what_fails_too_often_ends_the_service_with_the_number_of_its_failures() -> None:
    stopping = threading.Event()
    stack = Failing(100, stopping)
    with pytest.raises(StartError, match="the gateway keeps failing: 6 times"):
        serve._watch(cast("Stack", stack), stopping)
    assert stack.tries == serve.RESTARTS
