"""Files that are whole or not there: written beside their place, forced to disk, then renamed."""

import os
from collections.abc import Mapping
from pathlib import Path


def write_whole(contents: Mapping[Path, str | bytes]) -> None:
    """Write each text, UTF-8, or bytes to its path; folders are made. Nothing is replaced until all of it is on disk.

    Raises OSError, with what stood there before untouched and nothing half-written left.
    """
    halves = {path: _half(path) for path in contents}
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with halves[path].open("wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
        for path, half in halves.items():
            half.replace(path)
    finally:
        for half in halves.values():
            half.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Raise OSError unless `path` can be written: asked before the work whose result goes there. Makes its folder."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; a file goes there")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _half(path).write_text("")
        _half(path).unlink()
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error}") from error


def _half(path: Path) -> Path:
    return path.with_name(f".{path.name}.half")
