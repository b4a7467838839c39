"""Sessions of a bot: conversations that it remembers."""

from typing import Annotated

from fastapi import Path, Query, Response

from gateway.access import GuardedRouter
from gateway.bots import check_bot_id
from gateway.problems import declared
from gateway.routes.schemas import WITHOUT_NUL, After, BotId
from gateway.routes.session_schemas import SessionList, SessionOutput, SessionWithTurns, TurnOutput
from gateway.services import ServicesOf

router = GuardedRouter(prefix="/v1/bots/{bot_id}/sessions", tags=["sessions"])

SessionId = Annotated[
    str, Path(max_length=64, pattern=WITHOUT_NUL, description="The session's id, a secret of its user.")
]
Limit = Annotated[int, Query(ge=1, le=200, description="How many a page holds.")]


@router.post("", summary="Begin a session", status_code=201, responses=declared(404, 409, 422, 503))
async def create_session(bot_id: BotId, response: Response, services: ServicesOf) -> SessionOutput:
    session = await services.conversations.begin(check_bot_id(bot_id))
    response.headers["Location"] = f"/v1/bots/{bot_id}/sessions/{session.session_id}"
    return SessionOutput.of(session)


@router.get("", summary="List sessions", responses=declared(404, 422, 503))
async def list_sessions(
    bot_id: BotId,
    services: ServicesOf,
    limit: Limit = 50,
    after: After = "",
) -> SessionList:
    await services.store.get(check_bot_id(bot_id))
    page = await services.store.page_sessions(bot_id, limit=limit, after=after, since=services.conversations.since)
    return SessionList(sessions=[SessionOutput.of(session) for session in page.sessions], next_after=page.next_after)


@router.get("/{session_id}", summary="Read a session with its turns", responses=declared(404, 422, 503))
async def get_session(
    bot_id: BotId,
    session_id: SessionId,
    services: ServicesOf,
    limit: Limit = 50,
    after: Annotated[int, Query(ge=0, le=2**31 - 1, description="The `next_after` of the page before.")] = 0,
) -> SessionWithTurns:
    session = await services.store.get_session(check_bot_id(bot_id), session_id, since=services.conversations.since)
    exchanges = await services.store.page_exchanges(session_id, limit=limit, after=after)
    more = bool(exchanges) and exchanges[-1].number < session.exchanges
    return SessionWithTurns(
        **SessionOutput.of(session).model_dump(),
        turns=[TurnOutput.of(exchange) for exchange in exchanges],
        next_after=exchanges[-1].number if more else None,
    )


@router.delete("/{session_id}", summary="Forget a session", status_code=204, responses=declared(404, 422, 503))
async def delete_session(bot_id: BotId, session_id: SessionId, services: ServicesOf) -> None:
    await services.store.delete_session(check_bot_id(bot_id), session_id)
