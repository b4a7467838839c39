"""The small recipe, run as `make train` runs it: every stage, from made-up data to a folder that an engine serves."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from handler.contract.archive import GENERATION_CONFIG, ONNX_FILES


def last_line(path: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result


@pytest.mark.timeout(900)
def test_the_small_recipe_ends_with_models_that_beat_both_baselines(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHON": sys.executable, "RUN": str(tmp_path)}
    done = subprocess.run(
        [str(Path("training/recipes/small.sh").absolute())],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=850,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    teacher, student = (last_line(tmp_path / f"{name}.json") for name in ("finetuned", "distilled"))
    for result in (teacher, student):
        best = max(row["answer_hit"] for row in result["baselines"].values())
        assert result["answer_hit"] > best
    assert {path.name for path in (tmp_path / "export").iterdir()} == {*ONNX_FILES, GENERATION_CONFIG}
