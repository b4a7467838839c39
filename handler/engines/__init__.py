"""Engines: everything that turns token ids into logits. `base.py` is the port; an adapter is imported when chosen."""

import json
from pathlib import Path
from typing import Any, Final

from handler.engines.base import Engine, EngineError

ENGINES: Final = {"onnx": ("auto", "int8", "int4"), "torch": ("auto", "fp32", "bf16"), "echo": ("auto",)}
"""The engines by name, and the precisions each accepts."""

DEFAULT_ENGINE: Final = "onnx"
"""The fastest on a CPU; a GPU wants torch."""


def check_engine(engine: str, precision: str) -> None:
    """Raise EngineError when there is no such engine, or it has no such precision."""
    if engine not in ENGINES:
        raise EngineError(f"engine {engine!r} is not known; use {' or '.join(ENGINES)}")
    if precision == "fp16":
        raise EngineError("precision fp16 is refused: T5's activations leave its range and give NaN; use bf16 or fp32")
    if precision not in ENGINES[engine]:
        raise EngineError(
            f"precision {precision!r} is not known to engine {engine}; use {' or '.join(ENGINES[engine])}"
        )


def load_engine(engine: str, precision: str, model_dir: Path, **options: Any) -> Engine:
    """Return the engine called `engine` over the checkpoint folder `model_dir`, ready to run.

    `options` are `slots`, `device` ("cpu" or "gpu"), `gpu_id`, `threads`, `max_prompt_tokens` and
    `max_new_tokens`, as `OnnxEngine` documents them. Raises EngineError, or TypeError for another option.
    """
    check_engine(engine, precision)
    if engine == "echo":
        from handler.engines.echo_engine import EchoEngine

        vocabulary = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))["vocab_size"]
        return EchoEngine(vocabulary=vocabulary, slots=options["slots"])
    if engine == "onnx":
        from handler.engines.onnx_engine import OnnxEngine

        return OnnxEngine(model_dir, precision=precision, **options)
    from handler.engines.torch_engine import TorchEngine

    return TorchEngine(model_dir, precision=precision, **options)
