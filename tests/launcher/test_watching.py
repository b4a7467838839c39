"""A served stack under accidents: real processes on free ports, with the engine that needs no weights' time."""

import signal
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from launcher.torchserve import StartError
from launcher.trial import trial_torchserve
from tests.launcher.served import Served
from training.archive import build_archive

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

DYING_HANDLER = """
import os
class Handler:
    def initialize(self, context):
        os._exit(3)
    def handle(self, data, context):
        return []
"""
FAILING_HANDLER = DYING_HANDLER.replace("os._exit(3)", "raise RuntimeError('this model is not for serving')")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of the embedded model's vocabulary and the echo engine."""
    path = tmp_path_factory.mktemp("store") / "godel.mar"
    build_archive("models/embedded", path, engine="echo", precision="auto")
    return path


@pytest.fixture
def served(tmp_path: Path, archive: Path) -> Iterator[Served]:
    served = Served(tmp_path, archive)
    yield served
    served.close()


def answers(url: str) -> bool:
    with urllib.request.urlopen(f"{url}/bot/context/The%20sea%20is%20blue.", timeout=30):  # noqa: S310
        pass
    with urllib.request.urlopen(f"{url}/bot/chat/What%20is%20blue%3F", timeout=30) as reply:  # noqa: S310
        return bool(reply.status == 200)


def test_what_dies_is_started_again_status_tells_and_stop_leaves_nothing(served: Served) -> None:
    url = served.url
    told = served.command("status")
    assert (told.returncode, told.stdout.split(" (")[0]) == (0, f"ready: {url}")

    served.member("-m gateway").kill()
    served.wait_for("the gateway is back")
    assert answers(url)
    served.member("ModelServer").kill()
    served.wait_for("TorchServe is back")
    assert answers(url)

    family = served.family()
    stopped = served.command("stop")
    assert (stopped.returncode, stopped.stdout) == (0, "stopped\n")
    assert served.process.wait(1) == 0
    assert [each for each in family if each.is_running()] == []
    assert served.command("status").returncode == 3


def test_nothing_lives_on_when_the_launcher_itself_is_killed(served: Served) -> None:
    assert served.url
    family = served.family()
    assert len(family) >= 3  # Java, its worker, the gateway
    served.process.kill()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == []


def test_ctrl_c_while_starting_ends_it_at_once_with_nothing_left(served: Served) -> None:
    served.wait_for("^starting")
    while not (family := served.family()):
        assert served.process.poll() is None
    served.process.send_signal(signal.SIGINT)
    assert served.process.wait(30) == 0
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []


@pytest.mark.parametrize(
    ("handler", "reason"),
    [(FAILING_HANDLER, "RuntimeError: this model is not for serving"), (DYING_HANDLER, "without saying why")],
    ids=["raises", "dies"],
)
def test_a_model_that_cannot_be_loaded_is_one_line_that_says_why(
    tmp_path: Path, archive: Path, handler: str, reason: str
) -> None:
    broken = tmp_path / "broken.mar"
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(broken, "w") as target:
        for name in source.namelist():
            target.writestr(name, handler if name == "godel_handler.py" else source.read(name))
    torchserve = trial_torchserve(tmp_path / "run", broken)
    with pytest.raises(StartError, match=reason) as failed, torchserve:
        pass
    assert "\n" not in str(failed.value)
    assert not torchserve.running
