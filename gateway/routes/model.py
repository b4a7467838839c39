"""The model that answers, and whether this process and that model are well."""

from gateway.access import GuardedRouter
from gateway.problems import declared
from gateway.routes.model_schemas import Health, ModelOutput
from gateway.services import ServicesOf

router = GuardedRouter(tags=["operation"])


@router.get("/v1/model", summary="Describe the model", responses=declared(502, 503, 504))
async def describe_model(services: ServicesOf) -> ModelOutput:
    return ModelOutput.of(await services.inference.describe(), services.chat.defaults)


@router.get("/healthz", summary="Is the process alive?")
async def healthz() -> Health:
    return Health(status="ok")


@router.get("/livez", summary="Is the process alive? By Kubernetes' name")
async def livez() -> Health:
    return Health(status="ok")


@router.get(
    "/readyz",
    summary="Can messages be answered?",
    description="Yes when a worker is READY and has answered a canary prompt since it started.",
    responses=declared(422, 502, 503, 504),
)
async def readyz(services: ServicesOf) -> Health:
    await services.readiness.check()
    return Health(status="ready")
