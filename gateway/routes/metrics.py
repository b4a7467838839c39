"""The metrics, for Prometheus to fetch."""

from fastapi import Response

from gateway.access import GuardedRouter
from gateway.metrics import CONTENT_TYPE
from gateway.services import ServicesOf

router = GuardedRouter(tags=["operation"])


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={200: {"content": {CONTENT_TYPE: {"schema": {"type": "string"}}}, "description": "Text format 0.0.4"}},
)
async def metrics(services: ServicesOf) -> Response:
    return Response(services.metrics.exposition(), media_type=CONTENT_TYPE)
