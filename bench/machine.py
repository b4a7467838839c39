"""What a figure was measured on: a figure without it says little."""

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path

PACKAGES = ("torch", "tokenizers", "torchserve", "fastapi", "httpx", "uvicorn", "transformers", "onnxruntime")
"""Reported where they are installed."""


def machine() -> dict[str, object]:
    """Return processor, cores, memory in GB, Python, package versions and date."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
