"""A stack of one's own on free ports, beside whatever else runs: for tests and measurements."""

import contextlib
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from gateway.settings import Settings
from launcher.properties import ROOT, free_ports
from launcher.stack import Stack
from launcher.torchserve import TorchServe

ARCHIVE: Final = ROOT / "model_store" / "godel.mar"


def trial_torchserve(run_dir: Path, archive: Path = ARCHIVE, overrides: Mapping[str, str] | None = None) -> TorchServe:
    """Return a TorchServe, not started, that serves `archive` on free ports and writes into `run_dir` alone."""
    own = {"model_store": str(archive.resolve().parent), "load_models": f"godel={archive.name}"}
    return TorchServe(run_dir, free_ports() | own | dict(overrides or {}))


@contextlib.contextmanager
def trial_stack(run_dir: Path, archive: Path = ARCHIVE) -> Iterator[Stack]:
    """Yield a ready TorchServe and gateway over `archive`, with a database of their own; end them after."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = Settings(port=port, tokenizer=archive, database_url=f"sqlite+aiosqlite:///{run_dir.resolve()}/godel.db")
    stack = Stack(trial_torchserve(run_dir, archive), settings)
    try:
        stack.check()
        stack.start()
        yield stack
    finally:
        stack.stop()
