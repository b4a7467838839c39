"""What a running stack holds: memory, file descriptors, threads, slots, queues, files on disk."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx
import psutil

MB: Final = 2**20

Vitals = Mapping[str, float]
"""By name, as in ALLOWED."""

ALLOWED: Final[dict[str, float]] = {
    "gateway memory, MB": 20.0,
    "worker memory, MB": 20.0,
    "java memory, MB": 40.0,
    "gateway files": 6.0,
    "worker files": 6.0,
    "java files": 6.0,
    "gateway threads": 6.0,
    "worker threads": 6.0,
    "java threads": 6.0,
    "gateway in flight": 0.5,
    "gateway waiting": 0.5,
    "torchserve queue": 0.5,
    "live slots": 0.5,
    "lines of metrics": 12.0,
    "write-ahead log, MB": 8.0,
}
"""By how much each may grow in an hour of rests. At 30 requests a second, 20 MB are 200 bytes a request. Memory is
proportional (PSS). Java fills a heap of 256 MB at its leisure before it collects the old. The worker's heap keeps up to
128 MB of what prompts have freed (`handler/engines/heap.py`)."""

UNBOUNDED: Final = ("database, MB", "logs, MB")
"""What grows because it must: sessions are kept, and a log turns over at 20 MB, three times kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """Those that serve; None where it cannot be found out from here."""

    gateway: psutil.Process | None
    worker: psutil.Process | None
    java: psutil.Process | None

    @property
    def ids(self) -> dict[str, int | None]:
        """The process ids by name."""
        found = {"gateway": self.gateway, "worker": self.worker, "java": self.java}
        return {name: process.pid if process else None for name, process in found.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruments:
    """Where to look. What is not given is not reported."""

    http: httpx.AsyncClient
    """A client of the gateway."""
    torchserve_metrics: str | None = None
    folder: Path | None = None
    """Where database and logs lie."""

    async def processes(self) -> Processes:
        """Return the processes behind the gateway's address; they must be this user's own, on this machine."""
        workers = (await self.http.get("/v1/model")).raise_for_status().json()["workers"]
        worker = _process(workers[0]["pid"]) if workers else None
        port = urlsplit(str(self.http.base_url)).port
        return Processes(gateway=_listening(port), worker=worker, java=worker.parent() if worker else None)

    async def read(self, processes: Processes) -> dict[str, float]:
        """Return what there is to see now. Raises httpx.HTTPError or psutil.Error when something is gone."""
        seen: dict[str, float] = {}
        for name in ("gateway", "worker", "java"):
            process: psutil.Process | None = getattr(processes, name)
            if process is not None:
                seen[f"{name} memory, MB"] = process.memory_full_info().pss / MB
                seen[f"{name} files"] = process.num_fds()
                seen[f"{name} threads"] = process.num_threads()
        text = (await self.http.get("/metrics")).raise_for_status().text
        seen["gateway in flight"] = _gauge(text, "godel_in_flight")
        seen["gateway waiting"] = _gauge(text, "godel_waiting")
        seen["lines of metrics"] = text.count("\n")
        queue = (await self.http.get("/v1/model")).raise_for_status().json()["queue"]
        seen["torchserve queue"] = queue["pending"] or 0
        if self.torchserve_metrics is not None:
            text = (await self.http.get(f"{self.torchserve_metrics}/metrics")).raise_for_status().text
            seen["live slots"] = _gauge(text, "GodelLiveSlots")
        if self.folder is not None:
            seen["write-ahead log, MB"] = _size(self.folder, "*.db-wal")
            seen["database, MB"] = _size(self.folder, "*.db")
            seen["logs, MB"] = _size(self.folder, "logs/*")
        return seen


def _gauge(text: str, name: str) -> float:
    """Return the sum of the series called `name` in Prometheus' text."""
    found = re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)", text, re.MULTILINE)
    return sum(float(value) for value in found)


def _size(folder: Path, pattern: str) -> float:
    return sum(file.stat().st_size for file in folder.glob(pattern) if file.is_file()) / MB


def _process(pid: int | None) -> psutil.Process | None:
    try:
        return psutil.Process(pid) if pid is not None else None
    except psutil.NoSuchProcess:
        return None


def _listening(port: int | None) -> psutil.Process | None:
    """Return the process of this user that listens on `port`."""
    for process in psutil.process_iter():
        try:
            sockets = process.net_connections(kind="tcp")
        except psutil.Error:
            continue
        if any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in sockets):
            return process
    return None
