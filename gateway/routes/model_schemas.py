"""The JSON of the model that answers, and of health."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field

from gateway.inference import ModelDescription
from gateway.routes.schemas import Output, Parameters


class WorkerOutput(Output):
    """A process that runs the model."""

    status: str = Field(examples=["READY"])
    pid: int | None = Field(examples=[4711])


class QueueOutput(Output):
    """The model's queue."""

    capacity: int | None = Field(examples=[64])
    """How many more requests it takes."""
    pending: int | None = Field(examples=[0])
    """How many requests wait in it."""


class DeploymentShare(Output):
    """One of the versions of the model that are served."""

    name: str = Field(examples=["default"])
    weight: int = Field(examples=[100])
    """Percent of the requests."""
    version: str | None = Field(examples=["1.0"])
    instances: int = Field(examples=[1])
    """How many servers run it."""
    live: int = Field(examples=[1])
    """How many of them are asked just now."""


class ModelOutput(Output):
    """The model that answers, of several versions that with the greatest share; null where the server does not say."""

    name: str = Field(examples=["godel"])
    version: str | None = Field(examples=["1.0"])
    engine: str | None = Field(examples=["torch"])
    precision: str | None = Field(examples=["fp32"])
    device: str | None = Field(examples=["cpu"])
    device_note: str | None = Field(examples=[None])
    """Why the device is not the one that was asked for."""
    slots: int | None = Field(examples=[8])
    """Most requests answered at the same time."""
    max_prompt_tokens: int | None = Field(examples=[512])
    max_new_tokens: int | None = Field(examples=[256])
    workers: list[WorkerOutput]
    queue: QueueOutput
    deployments: list[DeploymentShare]
    """All versions that are served."""
    parameters: Parameters = Field(examples=[{"min_length": 0}])
    """The model's own defaults for its answers."""

    @classmethod
    def of(cls, model: ModelDescription, parameters: Mapping[str, Any]) -> Self:
        """Return `model` as clients see it."""
        queue = {"capacity": model.queue_capacity, "pending": model.queue_pending}
        return cls.model_validate(dataclasses.asdict(model) | {"queue": queue, "parameters": dict(parameters)})


class Health(Output):
    """The process is alive, or ready."""

    status: str = Field(examples=["ok"])
