"""The parent's side of a peer: starts its process, asks it, checks that it did the work, ends it."""

import contextlib
import json
import select
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from bench.environments import ENVIRONMENTS, interpreter

ROOT: Final = Path(__file__).resolve().parent.parent.parent
LOAD_SECONDS: Final = 900
RUN_SECONDS: Final = 600
END_SECONDS: Final = 15


class PeerError(RuntimeError):
    """A peer failed or did other work than it was asked; the message says which and how."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSpec:
    """One contender: the module `bench.peers.{module}` with `options`, in the environment `environment` or ours."""

    name: str
    module: str
    options: Mapping[str, Any] = field(default_factory=dict)
    environment: str | None = None

    @property
    def absent(self) -> str | None:
        """One line that says how to get what this peer needs, or None when it is there."""
        if self.environment is None or interpreter(self.environment).is_file():
            return None
        return f"{self.name}: skipped; `python -m bench.environments {self.environment}` installs what it needs"


OURS: Final = "ours"


def own(engine: str, precision: str, slots: int = 8) -> PeerSpec:
    """Return this project's engine as a contender."""
    options = {"engine": engine, "precision": precision, "slots": slots}
    return PeerSpec(name=OURS, module="own_peer", options=options)


def transformers(precision: str) -> PeerSpec:
    """Return transformers' `generate` in fp32, bf16 or int8 as a contender."""
    name = f"transformers_{precision}"
    return PeerSpec(name=name, module="transformers_peer", options={"precision": precision})


RIVALS: Final = (
    *(transformers(precision) for precision in ("fp32", "bf16", "int8")),
    PeerSpec(name="ctranslate2_int8", module="ctranslate2_peer", environment="ctranslate2"),
    # Which of the two is faster depends on the machine and the batch: the faster one is the rival.
    PeerSpec(name="openvino_int8", module="openvino_peer", options={"precision": "default"}, environment="openvino"),
    PeerSpec(name="openvino_int8_fp32", module="openvino_peer", options={"precision": "fp32"}, environment="openvino"),
)
assert {spec.environment for spec in RIVALS} - {None} == set(ENVIRONMENTS)


@dataclass(frozen=True, slots=True)
class Answered:
    """What one turn took."""

    seconds: float
    memory_mb: float | None
    answers: Sequence[Sequence[int]]


class PeerProcess:
    """A running peer with a loaded checkpoint. A context manager; leaving it ends the process."""

    def __init__(self, spec: PeerSpec, checkpoint: Path, logs: Path) -> None:
        """Start and load. Raises PeerError."""
        self.spec = spec
        logs.mkdir(parents=True, exist_ok=True)
        self._log = logs / f"{spec.name}.log"
        python = sys.executable if spec.environment is None else str(interpreter(spec.environment))
        with self._log.open("wb") as errors:
            self._process = subprocess.Popen(
                [python, "-m", f"bench.peers.{spec.module}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=ROOT,
            )
        try:
            request = {"op": "load", "checkpoint": str(checkpoint), "options": dict(spec.options)}
            self.details: dict[str, Any] = self._ask(request, LOAD_SECONDS)["details"]
        except BaseException:
            self.end()
            raise

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def run(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> Answered:
        """Have the prompts answered with `new_tokens` each. Raises PeerError, also for another number of tokens."""
        reply = self._ask({"op": "run", "prompts": prompts, "new_tokens": new_tokens}, RUN_SECONDS)
        counts = [len(answer) for answer in reply["answers"]]
        if counts != [new_tokens] * len(prompts):
            raise PeerError(
                f"{self.spec.name} did other work: {counts} new tokens, asked {new_tokens} for {len(prompts)}"
            )
        return Answered(reply["seconds"], reply["memory_mb"], reply["answers"])

    def end(self) -> None:
        """End the process: it leaves when its input ends, or is killed."""
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if pipe:
                    pipe.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ask(self, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        entrance, exit_ = self._process.stdin, self._process.stdout
        assert entrance
        assert exit_
        with contextlib.suppress(BrokenPipeError):  # it has ended, which its silence says below
            entrance.write(json.dumps(request).encode() + b"\n")
            entrance.flush()
        if not select.select([exit_], [], [], seconds)[0]:
            raise PeerError(f"{self.spec.name} did not answer within {seconds:g} s; see {self._log}")
        line = exit_.readline()
        if not line:
            raise PeerError(f"{self.spec.name} ended without an answer: {self._last_line()}; see {self._log}")
        reply: dict[str, Any] = json.loads(line)
        if error := reply.get("error"):
            raise PeerError(f"{self.spec.name}: {error}; see {self._log}")
        return reply

    def _last_line(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "it said nothing"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
