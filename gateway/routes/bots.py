"""Bots as resources. An ETag names what an editor has seen, so that two of them cannot overwrite each other."""

import re
import secrets
from typing import Annotated

from fastapi import Header, Query, Response

from gateway.access import GuardedRouter
from gateway.bots import Bot, BotDraft, check_bot_id
from gateway.errors import BotChanged, BotExists, BotNotFound
from gateway.problems import declared
from gateway.routes.bot_schemas import BotInput, BotList, BotOutput, BotPatch, BotSummary, NewBotInput
from gateway.routes.schemas import After, BotId
from gateway.services import CallerOf, Services, ServicesOf

router = GuardedRouter(prefix="/v1/bots", tags=["bots"])

PATCH_ATTEMPTS = 5
"""How often a change of single parts is tried again after others came first; more is a storm."""

Limit = Annotated[int, Query(ge=1, le=200, description="How many bots a page holds.")]
IfMatch = Annotated[str | None, Header(description="The `ETag` of the bot you have seen: 412 when it has changed.")]
IfNoneMatch = Annotated[str | None, Header(description="`*` to create only: 412 when there is such a bot.")]
Seen = Annotated[
    str | None, Header(alias="If-None-Match", description="The `ETag` you have: 304 when it is as it was.")
]


@router.get("", summary="List bots", responses=declared(422, 503))
async def list_bots(services: ServicesOf, caller: CallerOf, limit: Limit = 50, after: After = "") -> BotList:
    page = await services.store.page(limit=limit, after=after, only=caller.bots)
    return BotList(bots=[BotSummary.of(bot) for bot in page.bots], next_after=page.next_after)


@router.post(
    "",
    summary="Create a bot",
    description="With a `bot_id` of your own, or one that is made. Never replaces a bot.",
    status_code=201,
    responses=declared(400, 409, 413, 422, 503),
)
async def create_bot(wanted: NewBotInput, response: Response, services: ServicesOf) -> BotOutput:
    bot_id = wanted.bot_id if wanted.bot_id is not None else f"bot-{secrets.token_hex(6)}"
    bot = await services.store.create(_draft(services, bot_id, wanted))
    response.headers["Location"] = f"{router.prefix}/{bot.bot_id}"
    return _shown(bot, response)


@router.put(
    "/{bot_id}",
    summary="Create or replace a bot",
    description="Replaces all of it: what the body leaves out gets its default. 201 when the bot is new.",
    responses={201: {"model": BotOutput, "description": "Created"}, **declared(400, 412, 413, 422, 503)},
)
async def put_bot(
    bot_id: BotId,
    wanted: BotInput,
    response: Response,
    services: ServicesOf,
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
) -> BotOutput:
    draft = _draft(services, bot_id, wanted)
    if if_none_match is not None:
        try:
            bot = await services.store.create(draft)
        except BotExists:
            raise BotChanged(bot_id) from None
    elif if_match is not None:
        bot = await services.store.replace(await seen_bot(services, bot_id, if_match), draft)
    else:
        bot = await services.store.put(draft)
    response.status_code = 201 if bot.revision == 1 else 200
    return _shown(bot, response)


@router.patch(
    "/{bot_id}",
    summary="Change parts of a bot",
    description="What the body leaves out stays as it is.",
    responses=declared(400, 404, 412, 413, 422, 503),
)
async def patch_bot(
    bot_id: BotId, changes: BotPatch, response: Response, services: ServicesOf, if_match: IfMatch = None
) -> BotOutput:
    check_bot_id(bot_id)
    for attempt in range(PATCH_ATTEMPTS):
        old = await services.store.get(bot_id) if if_match is None else await seen_bot(services, bot_id, if_match)
        given = changes.model_dump(exclude_unset=True)
        kept = {name: getattr(old, name) for name in BotPatch.model_fields}
        draft = services.rules.draft(bot_id, **kept | given)
        try:
            return _shown(await services.store.replace(old, draft), response)
        except BotChanged:
            if if_match is not None or attempt == PATCH_ATTEMPTS - 1:
                raise
    raise AssertionError("the last attempt returns or raises")


@router.get(
    "/{bot_id}",
    summary="Read a bot",
    responses={304: {"description": "It is as you have it."}, **declared(404, 422, 503)},
    response_model=BotOutput,
)
async def get_bot(
    bot_id: BotId, response: Response, services: ServicesOf, if_none_match: Seen = None
) -> BotOutput | Response:
    bot = await services.store.get(check_bot_id(bot_id))
    if if_none_match is not None and _names(if_none_match, bot):
        return Response(status_code=304, headers={"ETag": etag(bot)})
    return _shown(bot, response)


@router.delete("/{bot_id}", summary="Delete a bot", status_code=204, responses=declared(404, 412, 422, 503))
async def delete_bot(bot_id: BotId, services: ServicesOf, if_match: IfMatch = None) -> None:
    check_bot_id(bot_id)
    seen = await seen_bot(services, bot_id, if_match) if if_match is not None else None
    await services.store.delete(bot_id, seen=seen)


def etag(bot: Bot) -> str:
    """Return the entity tag (RFC 9110, 8.8.3) of a bot: another one after each change, also across a deletion."""
    return f'"{bot.revision}-{int(bot.created_at.timestamp() * 1e6):x}"'


def _names(tags: str, bot: Bot) -> bool:
    """Return whether a list of entity tags, as a conditional header holds it, names the bot as it is."""
    return tags.strip() == "*" or etag(bot) in re.findall(r'"[^"]*"', tags)


async def seen_bot(services: Services, bot_id: str, if_match: str) -> Bot:
    """Return the bot, when it is what the editor has seen. Raises BotChanged."""
    try:
        bot = await services.store.get(bot_id)
    except BotNotFound:
        raise BotChanged(bot_id) from None
    if not _names(if_match, bot):
        raise BotChanged(bot_id)
    return bot


def _draft(services: Services, bot_id: str, wanted: BotInput | NewBotInput) -> BotDraft:
    return services.rules.draft(bot_id, **wanted.model_dump(include=set(BotInput.model_fields)))


def _shown(bot: Bot, response: Response) -> BotOutput:
    response.headers["ETag"] = etag(bot)
    return BotOutput.of(bot)
