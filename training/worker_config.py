"""Reads `handler/model-config.yaml`, the worker's settings, and refuses what TorchServe or the worker cannot use.

TorchServe skips what it does not know, and a worker fails where nobody looks: so a slip is told when an archive is
built.
"""

import difflib
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from handler.contract.archive import ArchiveError

ROOT: Final = Path(__file__).resolve().parent.parent
MODEL_CONFIG: Final = ROOT / "handler" / "model-config.yaml"

_Count = Annotated[int, Field(ge=1)]
_Milliseconds = Annotated[float, Field(ge=0)]


class _Handler(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    threads: _Count | None = None
    call_milliseconds: _Milliseconds = 60
    stream_milliseconds: _Milliseconds = 25
    patience_milliseconds: _Milliseconds | None = None
    max_prompt_tokens: _Count = 512
    max_new_tokens: _Count = 256


class _Worker(BaseModel):
    """What we set of TorchServe's; it has more, which pass."""

    model_config = ConfigDict(extra="allow", strict=True, alias_generator=to_camel)

    continuous_batching: bool = False
    min_workers: _Count = 1
    max_workers: _Count = 1
    batch_size: _Count = 1
    max_batch_delay: Annotated[int, Field(ge=0)] = 100
    job_queue_size: _Count = 100
    response_timeout: _Count = 120
    startup_timeout: _Count = 120
    max_retry_timeout_in_sec: _Count = Field(default=300, alias="maxRetryTimeoutInSec")
    device_type: Literal["cpu", "gpu"] = "cpu"
    handler: _Handler

    @model_validator(mode="after")
    def _check_workers(self) -> "_Worker":
        if self.continuous_batching and (self.min_workers, self.max_workers) != (1, 1):
            raise ValueError(
                "minWorkers and maxWorkers must be 1 with continuousBatching: a second worker would never be asked; set"
                " a larger batchSize, or serve another instance"
            )
        known = [field.alias or name for name, field in type(self).model_fields.items()]
        for name in self.model_extra or {}:
            if close := difflib.get_close_matches(name, known, n=1, cutoff=0.8):
                raise ValueError(f"{name} is no setting; did you mean {close[0]}?")
        return self


def worker_config(engine: str, precision: str, path: Path = MODEL_CONFIG) -> dict[str, Any]:
    """Return the worker's settings as an archive holds them, with engine and precision.

    Raises ArchiveError naming the file, the setting and what is wrong with it.
    """
    where = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    try:
        config: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        _Worker.model_validate(config)
    except yaml.YAMLError as error:
        raise ArchiveError(f"{where} is no YAML: {error}") from error
    except ValidationError as error:
        raise ArchiveError(f"{where}: {'; '.join(map(_said, error.errors()))}") from error
    config["handler"] |= {"engine": engine, "precision": precision}
    return dict(config)


def _said(error: Any) -> str:
    """Return one of pydantic's errors with the setting's name first."""
    name = ".".join(map(str, error["loc"]))
    if name in ("handler.engine", "handler.precision"):
        return f"{name} is not set here: say {name.partition('.')[2].upper()}=... to make"
    if error["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(error["loc"][-1]), list(_Handler.model_fields), n=1)
        return f"{name} is no setting" + (f"; did you mean {close[0]}?" if close else "")
    if error["type"] == "model_type":
        return f"{name or 'the file'} holds no settings"
    return ": ".join(filter(None, (name, error["msg"].removeprefix("Value error, "))))
