"""Keys as resources. A key's token is in the reply that makes it, and nowhere else."""

from datetime import timedelta
from typing import Annotated

from fastapi import Path, Query

from gateway.access import GuardedRouter
from gateway.problems import declared
from gateway.routes.key_schemas import KeyInput, KeyList, KeyOutput, KeyWithToken, RotationInput
from gateway.routes.schemas import WITHOUT_NUL, After
from gateway.services import CallerOf, ServicesOf

router = GuardedRouter(prefix="/v1/keys", tags=["keys"])

KeyId = Annotated[
    str, Path(max_length=64, pattern=WITHOUT_NUL, description="The key's id, which is the middle of its token.")
]
Limit = Annotated[int, Query(ge=1, le=200, description="How many keys a page holds.")]


@router.post(
    "",
    summary="Make a key",
    description="The reply alone has the token; what is kept cannot give it back.",
    status_code=201,
    responses=declared(400, 409, 413, 422, 503),
)
async def create_key(wanted: KeyInput, services: ServicesOf, caller: CallerOf) -> KeyWithToken:
    return KeyWithToken.issued(*await services.keys.issue(**wanted.model_dump(), by=caller))


@router.get("", summary="List keys", responses=declared(422, 503))
async def list_keys(services: ServicesOf, limit: Limit = 50, after: After = "") -> KeyList:
    page = await services.store.page_keys(limit=limit, after=after)
    return KeyList(keys=[KeyOutput.of(key) for key in page.keys], next_after=page.next_after)


@router.get("/{key_id}", summary="Read a key", responses=declared(404, 422, 503))
async def get_key(key_id: KeyId, services: ServicesOf) -> KeyOutput:
    return KeyOutput.of(await services.store.get_key(key_id))


@router.delete("/{key_id}", summary="Revoke a key", status_code=204, responses=declared(404, 409, 422, 503))
async def delete_key(key_id: KeyId, services: ServicesOf, caller: CallerOf) -> None:
    await services.keys.revoke(key_id, by=caller)


@router.post(
    "/{key_id}/rotate",
    summary="Rotate a key",
    description="Makes one like it. The old one stays valid for the overlap: time to put the new one in its place.",
    status_code=201,
    responses=declared(400, 404, 409, 413, 422, 503),
)
async def rotate_key(key_id: KeyId, wanted: RotationInput, services: ServicesOf, caller: CallerOf) -> KeyWithToken:
    overlap = timedelta(seconds=wanted.overlap_seconds)
    return KeyWithToken.issued(*await services.keys.rotate(key_id, overlap=overlap, by=caller))
