"""Bots as resources."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from gateway.bots import check_bot_id
from gateway.problems import declared
from gateway.routes.schemas import BotId, BotInput, BotList, BotOutput, BotSummary
from gateway.services import ServicesOf

router = APIRouter(prefix="/v1/bots", tags=["bots"])

Limit = Annotated[int, Query(ge=1, le=200, description="How many bots a page holds.")]
After = Annotated[str, Query(max_length=64, description="The `next_after` of the page before.")]


@router.get("", summary="List bots", responses=declared(422, 503))
async def list_bots(services: ServicesOf, limit: Limit = 50, after: After = "") -> BotList:
    page = await services.store.page(limit=limit, after=after)
    return BotList(bots=[BotSummary.of(bot) for bot in page.bots], next_after=page.next_after)


@router.put(
    "/{bot_id}",
    summary="Create or replace a bot",
    description="Replaces all of it: what the body leaves out gets its default. 201 when the bot is new.",
    responses={201: {"model": BotOutput, "description": "Created"}, **declared(400, 413, 422, 503)},
)
async def put_bot(bot_id: BotId, wanted: BotInput, response: Response, services: ServicesOf) -> BotOutput:
    draft = services.rules.draft(bot_id, wanted.knowledge, wanted.instruction, wanted.parameters)
    bot = await services.store.put(draft)
    response.status_code = 201 if bot.revision == 1 else 200
    return BotOutput.of(bot)


@router.get("/{bot_id}", summary="Read a bot", responses=declared(404, 422, 503))
async def get_bot(bot_id: BotId, services: ServicesOf) -> BotOutput:
    return BotOutput.of(await services.store.get(check_bot_id(bot_id)))


@router.delete("/{bot_id}", summary="Delete a bot", status_code=204, responses=declared(404, 422, 503))
async def delete_bot(bot_id: BotId, services: ServicesOf) -> None:
    await services.store.delete(check_bot_id(bot_id))
