"""What a figure was measured on: a figure without it says little."""

import datetime
import importlib.metadata
import os
import platform

from handler.engines.cores import CPUINFO, instruction_sets

PACKAGES = ("torch", "tokenizers", "torchserve", "fastapi", "httpx", "uvicorn", "transformers", "onnxruntime")
"""Reported where they are installed."""

INSTRUCTIONS = ("amx_int8", "avx512_vnni", "avx_vnni", "avx512f", "avx2")
"""What 8-bit products can be made with, fastest first, as Linux calls it: more than the name of a processor says."""


def machine() -> dict[str, object]:
    """Return processor, cores, memory in GB, Python, package versions and date."""
    return {
        "processor": _processor(),
        "instructions": instructions(),
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
    lines = CPUINFO.read_text().splitlines() if CPUINFO.exists() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def instructions() -> str:
    """Return the fastest of INSTRUCTIONS that this processor has, or its architecture where it says none."""
    known = instruction_sets()
    return next((name for name in INSTRUCTIONS if name in known), platform.machine())
