"""The benchmark's own tiny checkpoint, built once."""

from pathlib import Path

import pytest

from bench.checkpoints import checkpoint


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint("tiny", tmp_path_factory.mktemp("bench"))
