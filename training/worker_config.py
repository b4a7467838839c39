"""Reads `handler/model-config.yaml`, the worker's settings, and refuses what TorchServe or the worker cannot use.

TorchServe skips what it does not know, and a worker fails where nobody looks: so a slip is told when an archive is
built.
"""

import difflib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from handler.contract.archive import ArchiveError

ROOT: Final = Path(__file__).resolve().parent.parent
MODEL_CONFIG: Final = ROOT / "handler" / "model-config.yaml"

_COUNT: Final = (int, 1)
_MILLISECONDS: Final = (float, 0)

# The kind of a value and the least it may be. Of TorchServe's settings those that we make; it has more, which pass.
_TORCHSERVE: Final[Mapping[str, tuple[type, float]]] = {
    "continuousBatching": (bool, 0),
    "minWorkers": _COUNT,
    "maxWorkers": _COUNT,
    "batchSize": _COUNT,
    "maxBatchDelay": (int, 0),
    "jobQueueSize": _COUNT,
    "responseTimeout": _COUNT,
    "startupTimeout": _COUNT,
    "maxRetryTimeoutInSec": _COUNT,
    "deviceType": (str, 0),
    "handler": (dict, 0),
}
_HANDLER: Final[Mapping[str, tuple[type, float]]] = {
    "threads": _COUNT,
    "call_milliseconds": _MILLISECONDS,
    "stream_milliseconds": _MILLISECONDS,
    "patience_milliseconds": _MILLISECONDS,
    "max_prompt_tokens": _COUNT,
    "max_new_tokens": _COUNT,
}
_MAY_BE_NULL: Final = frozenset({"threads", "patience_milliseconds"})
_KINDS: Final = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    dict: "a list of settings",
}


def worker_config(engine: str, precision: str, path: Path = MODEL_CONFIG) -> dict[str, Any]:
    """Return the worker's settings as an archive holds them, with engine and precision.

    Raises ArchiveError naming the file, the setting and what is wrong with it.
    """
    where = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    try:
        config: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ArchiveError(f"{where} is no YAML: {error}") from error
    if not isinstance(config, dict) or "handler" not in config:
        raise ArchiveError(f"{where} holds no settings under `handler:`; `git checkout` brings them back")
    if problems := "; ".join(_problems(config)):
        raise ArchiveError(f"{where}: {problems}")
    config["handler"] |= {"engine": engine, "precision": precision}
    return config


def _problems(config: Mapping[str, Any]) -> Iterator[str]:
    for name, value in config.items():
        if name in _TORCHSERVE:
            yield from _wrong(name, value, *_TORCHSERVE[name])
        elif close := difflib.get_close_matches(str(name), _TORCHSERVE, n=1, cutoff=0.8):
            yield f"{name} is no setting; did you mean {close[0]}?"
    if config.get("deviceType", "cpu") not in ("cpu", "gpu"):
        yield "deviceType: must be cpu or gpu"
    if config.get("continuousBatching") and (config.get("minWorkers", 1), config.get("maxWorkers", 1)) != (1, 1):
        yield (
            "minWorkers and maxWorkers must be 1 with continuousBatching: a second worker's requests would never be"
            " answered; set a larger batchSize, or serve another instance"
        )
    handler = config["handler"]
    for name, value in handler.items() if isinstance(handler, dict) else ():
        if name in ("engine", "precision"):
            yield f"handler.{name} is not set here: say {name.upper()}=... to make"
        elif name in _HANDLER:
            if value is not None or name not in _MAY_BE_NULL:
                yield from _wrong(f"handler.{name}", value, *_HANDLER[name])
        else:
            close = difflib.get_close_matches(str(name), _HANDLER, n=1)
            yield f"handler.{name} is no setting" + (f"; did you mean {close[0]}?" if close else "")


def _wrong(name: str, value: object, kind: type, least: float) -> Iterator[str]:
    kinds = (int, float) if kind is float else (kind,)
    if type(value) not in kinds or (isinstance(value, float) and not math.isfinite(value)):
        yield f"{name}: must be {_KINDS[kind]}, not {value!r}"
    elif isinstance(value, int | float) and value < least:
        yield f"{name}: must be at least {least}, not {value}"
