"""What all tests share: how property tests choose their inputs, and one real stack for those that want one.

Inputs are a fixed sample by default, so that a run can be repeated; more when asked:

    python -m pytest --hypothesis-profile=long --timeout=0 --hypothesis-show-statistics -p no:logging \
        tests/security/test_handler_fuzz.py tests/security/test_prompt_forgery.py tests/contract/test_wire.py
"""

import contextlib
import ctypes
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from launcher.serve import Stack
from launcher.trial import ARCHIVE, trial_stack

# No deadline: machines that run tests are busy, and a slow moment is no defect.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile(
    "long", max_examples=25_000, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("fixed")


def pytest_configure() -> None:
    """Give each of the processes that run tests side by side cores of its own.

    Otherwise each would start as many threads as there are cores, and those would wait for each other.
    """
    number, count = (os.environ.get(f"PYTEST_XDIST_{name}") for name in ("WORKER", "WORKER_COUNT"))
    if number and count and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        mine = cores[int(number.removeprefix("gw")) :: int(count)] or cores
        os.sched_setaffinity(0, mine)
        torch.set_num_threads(len(mine))  # it has counted them already; two on one core wait for each other's turn


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs the stack as end-to-end; where files run side by side, let the long ones begin."""
    for item in items:
        if isinstance(item, pytest.Function) and "stack" in item.fixturenames:
            item.add_marker(pytest.mark.e2e)
    if "PYTEST_XDIST_WORKER" in os.environ:  # one that began last would leave the other workers idle
        longest: dict[Path, float] = defaultdict(float)
        for item in items:
            longest[item.path] = max(longest[item.path], _timeout(item))
        items.sort(key=lambda item: -longest[item.path])


def _timeout(item: pytest.Item) -> float:
    """Return the seconds that a test asks for; 0 for one that has as many as others."""
    mark = item.get_closest_marker("timeout")
    return float(mark.args[0]) if mark else 0.0


@pytest.fixture(autouse=True)
def subnormal_numbers() -> Iterator[None]:
    """Give back the numbers near nothing that an ONNX engine takes from its thread: Hypothesis draws them."""
    _usual_arithmetic()
    yield
    _usual_arithmetic()


def _usual_arithmetic() -> None:
    """Reset the thread's floating-point environment; FE_DFL_ENV of glibc's fenv.h."""
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL("libm.so.6").fesetenv(ctypes.c_void_p(-1))


@pytest.fixture(scope="session")
def archive() -> Path:
    """The archive of the embedded model, which `make test` builds."""
    assert ARCHIVE.is_file(), "run `make archive` first, or `make test`, which does"
    return ARCHIVE


@pytest.fixture(scope="session")
def stack_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the stack writes; its database is godel.db there."""
    return tmp_path_factory.mktemp("stack")


@pytest.fixture(scope="session")
def stack(stack_folder: Path, archive: Path) -> Iterator[Stack]:
    """A real TorchServe with the embedded model and a real gateway on free ports, started once."""
    with pytest.MonkeyPatch.context() as patch:
        # What a test asks at once may take a busy machine a minute; refusing is tested elsewhere.
        patch.setenv("GODEL_MAX_QUEUE_SECONDS", "60")
        with trial_stack(stack_folder, archive) as running:
            yield running
