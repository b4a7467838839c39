"""An engine takes as many threads as its container lets run."""

import os
from pathlib import Path

import pytest

from handler.engines.cores import usable_cores


@pytest.fixture(autouse=True)
def _sixty_four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))


@pytest.mark.parametrize(("limit", "cores"), [("200000 100000", 2), ("250000 100000", 3), ("10000 100000", 1)])
def test_a_quota_bounds_the_cores(tmp_path: Path, limit: str, cores: int) -> None:
    (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert usable_cores(tmp_path) == cores


def test_a_quota_of_the_first_version_bounds_them_too(tmp_path: Path) -> None:
    folder = tmp_path / "cpu"
    folder.mkdir()
    (folder / "cpu.cfs_quota_us").write_text("400000\n")
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    assert usable_cores(tmp_path) == 4


@pytest.mark.parametrize("text", ["max 100000\n", "nonsense\n", ""])
def test_without_a_quota_there_are_those_it_may_run_on(tmp_path: Path, text: str) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert usable_cores(tmp_path) == 64
    assert usable_cores(tmp_path / "missing") == 64
