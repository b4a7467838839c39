"""The encoder's attention in one kernel, tried where there is no GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def test_the_kernels_interpreted_on_the_cpu_give_what_attention_written_out_gives() -> None:
    pytest.importorskip("triton")
    tests = Path(__file__).with_name("attention_interpreted.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)]
    done = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "6 passed" in done.stdout
