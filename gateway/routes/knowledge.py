"""A bot's knowledge as a document: uploaded in one piece, and measured as the model counts."""

from contextlib import AsyncExitStack
from dataclasses import fields
from typing import Any

import anyio.to_thread
from fastapi import Request, Response
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from gateway.access import GuardedRouter
from gateway.bots import Bot, BotDraft, check_bot_id
from gateway.documents import MEDIA_TYPES, Document, text_of
from gateway.errors import BotChanged, ContentTooLarge, InvalidInput
from gateway.passages import split
from gateway.problems import declared
from gateway.routes.bot_schemas import KnowledgeOutput
from gateway.routes.bots import IfMatch, etag, seen_bot
from gateway.routes.schemas import BotId
from gateway.services import Services, ServicesOf
from handler.contract.prompt import neutralise

router = GuardedRouter(prefix="/v1/bots/{bot_id}/knowledge", tags=["bots"])

_FILE = {"type": "string", "format": "binary"}
_FORM = {"type": "object", "required": ["file"], "properties": {"file": _FILE}}
UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"multipart/form-data": {"schema": _FORM}} | {name: {"schema": _FILE} for name in MEDIA_TYPES},
    }
}


@router.get("", summary="Measure a bot's knowledge", responses=declared(404, 422, 503))
async def get_knowledge(bot_id: BotId, response: Response, services: ServicesOf) -> KnowledgeOutput:
    return await _measured(await services.store.get(check_bot_id(bot_id)), response, services)


@router.put(
    "",
    summary="Upload a bot's knowledge",
    description="A `.txt`, `.md`, `.html` or `.pdf`, as the body itself or as the field `file` of a form. Replaces"
    " the knowledge alone; what was read is the bot's `knowledge`.",
    responses=declared(404, 412, 413, 415, 422, 503),
    openapi_extra=UPLOAD,
)
async def put_knowledge(
    bot_id: BotId, request: Request, response: Response, services: ServicesOf, if_match: IfMatch = None
) -> KnowledgeOutput:
    check_bot_id(bot_id)
    await services.store.get(bot_id)  # nobody uploads ten megabytes to learn that there is no such bot
    document = await _document(request, services.max_document_bytes)
    async with services.readers:
        text = await text_of(document, services.rules.max_knowledge_characters)
    for last in (False, False, True):
        seen = await services.store.get(bot_id) if if_match is None else await seen_bot(services, bot_id, if_match)
        kept = {item.name: getattr(seen, item.name) for item in fields(BotDraft)}
        try:
            bot = await services.store.replace(seen, services.rules.draft(**kept | {"knowledge": text}))
        except BotChanged:
            if last or if_match is not None:
                raise
        else:
            return await _measured(bot, response, services)
    raise AssertionError("the last attempt returns or raises")


async def _document(request: Request, limit: int) -> Document:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "multipart/form-data":
        content = b"".join([chunk async for chunk in request.stream()])
        return Document(content=_within(content, limit), media_type=media_type)
    async with AsyncExitStack() as stack:
        try:
            form = await stack.enter_async_context(request.form(max_files=1, max_fields=8))
        except HTTPException as error:  # by which Starlette says what is wrong with a form
            raise InvalidInput.of({"file": f"cannot be read from the form: {error.detail}"}) from error
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise InvalidInput.of({"file": "is missing: the form must hold the document in this field"})
        content = _within(await file.read(limit + 1), limit)
        announced = (file.content_type or "").partition(";")[0].strip().lower()
        return Document(content=content, media_type=announced, name=file.filename or "")


def _within(content: bytes, limit: int) -> bytes:
    if len(content) > limit:
        raise ContentTooLarge(f"the document has more than {limit} bytes")
    if not content:
        raise InvalidInput.of({"file": "is empty"})
    return content


async def _measured(bot: Bot, response: Response, services: Services) -> KnowledgeOutput:
    response.headers["ETag"] = etag(bot)
    prompts = services.chat.prompts

    def measure() -> KnowledgeOutput:
        return KnowledgeOutput(
            bot_id=bot.bot_id,
            characters=len(bot.knowledge),
            tokens=prompts.count_tokens(neutralise(bot.knowledge)) if bot.knowledge else 0,
            passages=len(split(bot.knowledge)),  # counted, not indexed: most of it is never searched
        )

    return await anyio.to_thread.run_sync(measure)
