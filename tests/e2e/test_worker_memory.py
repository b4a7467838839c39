"""What the worker of a CPU engine does not load."""

from pathlib import Path

from launcher.serve import Stack


def test_a_worker_whose_engine_does_without_pytorch_has_not_loaded_it(stack: Stack) -> None:
    (worker,) = stack.torchserve.manage("GET", "/models/godel")[0]["workers"]
    mapped = Path(f"/proc/{worker['pid']}/maps").read_text()
    assert "onnxruntime" in mapped
    assert "libtorch" not in mapped
