"""What TorchServe's management API says of a model, read with suspicion: it has no schema, and not all of it always."""

from collections.abc import Mapping
from typing import Any

from gateway.inference import ModelDescription, Worker


def workers(state: Mapping[str, Any]) -> list[Worker]:
    """Return the workers of one version of a model."""
    found = state.get("workers")
    rows = [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []
    return [Worker(status=str(row.get("status", "UNKNOWN")), pid=_whole(row.get("pid"))) for row in rows]


def describe(name: str, state: Mapping[str, Any], facts: Mapping[str, Any]) -> ModelDescription:
    """Return what `state` says, and `facts` that the archive and the handler tell; None for what nobody does."""
    queue = state.get("jobQueueStatus")
    queue = queue if isinstance(queue, dict) else {}
    return ModelDescription(
        name=name,
        version=_text(state.get("modelVersion")),
        engine=_text(facts.get("engine")),
        precision=_text(facts.get("precision")),
        device=_text(facts.get("device")),
        device_note=_text(facts.get("device_note")),
        slots=_whole(state.get("batchSize")),
        max_prompt_tokens=_whole(facts.get("max_prompt_tokens")),
        max_new_tokens=_whole(facts.get("max_new_tokens")),
        workers=tuple(workers(state)),
        queue_capacity=_whole(queue.get("remainingCapacity")),
        queue_pending=_whole(queue.get("pendingRequests")),
    )


def _text(value: object) -> str | None:
    return str(value) if isinstance(value, str | int | float) else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
