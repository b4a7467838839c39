"""Versions of the model as resources: which servers run them, and how much of the traffic each gets."""

from typing import Annotated

from fastapi import Path

from gateway.access import GuardedRouter
from gateway.problems import declared
from gateway.routes.deployment_schemas import DeploymentInput, DeploymentList, DeploymentOutput, WeightInput
from gateway.services import CallerOf, ServicesOf

router = GuardedRouter(prefix="/v1/deployments", tags=["deployments"])

Name = Annotated[
    str, Path(max_length=64, description="The deployment's name, such as the version of its model.", examples=["2.0"])
]


@router.get("", summary="List deployments", responses=declared(503))
async def list_deployments(services: ServicesOf) -> DeploymentList:
    await services.rollout.refresh()
    return DeploymentList.of(services.rollout.pool.groups)


@router.get("/{name}", summary="Read a deployment", responses=declared(404, 422, 503))
async def get_deployment(name: Name, services: ServicesOf) -> DeploymentOutput:
    await services.rollout.refresh()
    return DeploymentOutput.of(services.rollout.pool.group(name))


@router.put(
    "/{name}",
    summary="Add a deployment, or change its servers",
    description="Each server has to answer, and to read prompts as this gateway writes them. A new deployment gets no"
    " requests yet; requests that a server has are finished when it is no longer named.",
    responses=declared(400, 409, 413, 422, 503),
)
async def put_deployment(
    name: Name, wanted: DeploymentInput, services: ServicesOf, caller: CallerOf
) -> DeploymentOutput:
    await services.rollout.put(name, [each.address for each in wanted.instances], by=caller)
    return DeploymentOutput.of(services.rollout.pool.group(name))


@router.put(
    "/{name}/weight",
    summary="Give a deployment a share of the requests",
    responses=declared(400, 404, 409, 413, 422, 503),
)
async def weigh_deployment(name: Name, wanted: WeightInput, services: ServicesOf, caller: CallerOf) -> DeploymentList:
    await services.rollout.weigh(name, wanted.weight, by=caller)
    return DeploymentList.of(services.rollout.pool.groups)


@router.post(
    "/rollback",
    summary="Take the last change of weights back",
    description="Once more takes back the one before that, and so on.",
    responses=declared(409, 503),
)
async def roll_back_deployments(services: ServicesOf, caller: CallerOf) -> DeploymentList:
    await services.rollout.roll_back(by=caller)
    return DeploymentList.of(services.rollout.pool.groups)


@router.delete(
    "/{name}",
    summary="Remove a deployment",
    description="One that gets no requests any more; those in flight are finished.",
    status_code=204,
    responses=declared(404, 409, 422, 503),
)
async def delete_deployment(name: Name, services: ServicesOf, caller: CallerOf) -> None:
    await services.rollout.remove(name, by=caller)
