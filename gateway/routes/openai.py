"""OpenAI's chat completions and models: a bot is a model. Written after the public API reference."""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import Request, Response

from gateway import event_stream, openai_errors
from gateway.access import GuardedRouter
from gateway.bots import check_bot_id
from gateway.chat import Answer, Chat, Question
from gateway.disconnect import while_connected
from gateway.errors import BotNotFound, InvalidInput
from gateway.event_stream import EventStream, event
from gateway.problems import Problem
from gateway.routes.openai_schemas import (
    FIELDS,
    Choice,
    Completion,
    CompletionInput,
    CompletionUsage,
    ModelCard,
    ModelList,
    Said,
    finish_name,
)
from gateway.services import Asker, CallerOf, ServicesOf

PAGE = 200

router = GuardedRouter(prefix="/v1", tags=["openai"])


@router.get("/models", summary="List bots as models", responses=openai_errors.declared(503))
async def list_models(services: ServicesOf, caller: CallerOf) -> ModelList:
    cards: list[ModelCard] = []
    after: str | None = ""
    while after is not None:
        page = await services.store.page(limit=PAGE, after=after, only=caller.bots)
        cards += [ModelCard.of(bot) for bot in page.bots]
        after = page.next_after
    return ModelList(data=cards)


@router.get("/models/{model}", summary="Read a bot as a model", responses=openai_errors.declared(400, 404, 503))
async def get_model(model: str, services: ServicesOf) -> ModelCard:
    return ModelCard.of(await services.store.get(_bot_id(model)))


@router.post(
    "/chat/completions",
    summary="Continue a dialogue",
    description="Parameters that are not listed are refused by name, unless their value asks for nothing.",
    response_model=Completion,
    responses={
        200: {
            "description": "The answer: whole, or with `stream` as chunks, the last of them `[DONE]`.",
            "content": {event_stream.MEDIA_TYPE: {"schema": {"type": "string"}}},
        },
        **openai_errors.declared(400, 404, 413, 429, 502, 503, 504),
    },
)
async def create_chat_completion(asked: CompletionInput, request: Request) -> Completion | Response:
    asker = Asker.of(request)
    asked.check()
    asker.caller.check("chat", bot_id=asked.model)
    question = Question(
        bot_id=_bot_id(asked.model),
        turns=asked.turns,
        parameters=asked.parameters,
        request_id=asker.request_id,
        caller=asker.caller,
        limited=asker.limited,
        knowledge=asked.knowledge,
        stop=asked.stops,
    )
    created = int(asker.chat.clock())
    try:
        if asked.stream:
            return await EventStream.open(request, _chunks(asker.chat, question, asked, created), _failed)
        answer = await while_connected(request, asker.chat.answer(question))
    except InvalidInput as error:
        raise InvalidInput.of({_field(name): problem for name, problem in error.problems.items()}) from error
    return Completion(
        id=_completion_id(asker.request_id),
        created=created,
        model=asked.model,
        choices=[
            Choice(message=Said(content=answer.reply.text), finish_reason=finish_name(answer.reply.finish_reason))
        ],
        usage=CompletionUsage.of(answer),
    )


async def _chunks(chat: Chat, question: Question, asked: CompletionInput, created: int) -> AsyncGenerator[bytes, None]:
    options = asked.stream_options
    include_usage = options is not None and options.include_usage
    head: dict[str, Any] = {
        "id": _completion_id(question.request_id),
        "object": "chat.completion.chunk",
        "created": created,
        "model": asked.model,
    }

    def chunk(delta: dict[str, str], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _data(head | {"choices": [choice]} | ({"usage": None} if include_usage else {}))

    begun = False
    async with aclosing(chat.stream(question)) as parts:
        async for part in parts:
            if not begun:
                yield chunk({"role": "assistant", "content": ""})
                begun = True
            if not isinstance(part, Answer):
                yield chunk({"content": part})
                continue
            yield chunk({}, finish_name(part.reply.finish_reason))
            if include_usage:
                yield _data(head | {"choices": [], "usage": CompletionUsage.of(part).model_dump()})
            yield event("[DONE]")


def _failed(problem: Problem) -> bytes:
    return _data(openai_errors.envelope(problem))


def _data(message: dict[str, Any]) -> bytes:
    return event(json.dumps(message, ensure_ascii=False, separators=(",", ":")))


def _completion_id(request_id: str) -> str:
    return f"chatcmpl-{request_id}"


def _bot_id(model: str) -> str:
    try:
        return check_bot_id(model)
    except InvalidInput:
        raise BotNotFound(model[:64]) from None  # to these clients no name is wrong, there is only no such model


def _field(name: str) -> str:
    own = name.removeprefix("parameters.")
    return FIELDS.get(own, own)
