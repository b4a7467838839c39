"""The child's side of a peer: one engine in a process of its own, asked over lines of JSON.

    {"op": "load", "checkpoint": FOLDER, "options": {...}}    -> {"details": {...}}
    {"op": "run", "prompts": [[id, ...], ...], "new_tokens": N} -> {"seconds": S, "answers": [[id, ...], ...],
                                                                   "memory_mb": M}

A failure is answered with {"error": TEXT}. The end of the input ends the process. This file and those of the peers
run in environments that hold little: nothing beside the standard library is imported here.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol


class Peer(Protocol):
    """An engine under measurement. Loaded and run in one thread, the main one."""

    @property
    def load(self) -> Callable[..., dict[str, Any]]:
        """Read a checkpoint folder, with options of its own; return what there is to say of versions and settings."""
        ...

    def run(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[list[int]]:
        """Return the greedy answer to each prompt: exactly `new_tokens` ids, the end token forbidden before."""
        ...


def serve(peer: Peer) -> None:
    """Answer requests on standard input until it ends. What libraries print goes to standard error."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8") as replies:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        for line in sys.stdin:
            try:
                reply = _answer(peer, json.loads(line))
            except Exception as error:
                traceback.print_exc()
                reply = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
            print(json.dumps(reply), file=replies, flush=True)


def _answer(peer: Peer, request: dict[str, Any]) -> dict[str, Any]:
    if request["op"] == "load":
        return {"details": peer.load(Path(request["checkpoint"]), **request["options"])}
    start = time.perf_counter()
    answers = peer.run(request["prompts"], request["new_tokens"])
    return {"seconds": time.perf_counter() - start, "answers": answers, "memory_mb": _memory_mb()}


def _memory_mb() -> float | None:
    """Return the resident memory of this process, or None where the system does not say so here."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), None)
