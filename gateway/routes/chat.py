"""Talking to a bot in JSON, the answer whole or as a stream of events."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import Request, Response

from gateway import event_stream
from gateway.access import GuardedRouter
from gateway.bots import check_bot_id
from gateway.chat import Answer, Chat, Question
from gateway.disconnect import while_connected
from gateway.event_stream import EventStream, event
from gateway.problems import Problem, declared
from gateway.routes.chat_schemas import ChatInput, ChatOutput, ChatPart
from gateway.routes.schemas import BotId
from gateway.services import Asker

router = GuardedRouter(prefix="/v1/bots", tags=["chat"])

STREAMED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer: whole, or with `stream` as events. Each `part` adds text, `answer` is the last"
        " and holds the whole as JSON does without `stream`; `problem` is the last when the answer fails on its way.",
        "content": {
            event_stream.MEDIA_TYPE: {
                "schema": {"type": "string"},
                "example": 'event: part\ndata: {"text":"There are eleven"}\n\n'
                'event: part\ndata: {"text":" players in each team."}\n\nevent: answer\ndata: {"response":...}\n\n',
            }
        },
    }
}


@router.post(
    "/{bot_id}/chat",
    summary="Talk to a bot",
    description="Answers from the bot's knowledge. Without `session_id` it has no memory; `messages` may bring one.",
    response_model=ChatOutput,
    responses=STREAMED | declared(400, 404, 409, 413, 422, 429, 502, 503, 504),
)
async def chat(bot_id: BotId, said: ChatInput, request: Request) -> Response:
    asker = Asker.of(request)
    question = Question(
        bot_id=check_bot_id(bot_id),
        turns=said.turns,
        parameters=said.parameters,
        request_id=asker.request_id,
        caller=asker.caller,
        limited=asker.limited,
        session_id=said.session_id,
    )
    if said.stream:
        return await EventStream.open(request, _events(asker.chat, question), _failed)
    answer = await while_connected(request, asker.chat.answer(question))
    # Its JSON, not the object: that FastAPI would check once more by the rules it was made by.
    return Response(ChatOutput.of(answer, asker.request_id).model_dump_json(), media_type="application/json")


async def _events(chat: Chat, question: Question) -> AsyncGenerator[bytes, None]:
    async with aclosing(chat.stream(question)) as parts:
        async for part in parts:
            if isinstance(part, Answer):
                yield event(ChatOutput.of(part, question.request_id).model_dump_json(), "answer")
            else:
                yield event(ChatPart(text=part).model_dump_json(), "part")


def _failed(problem: Problem) -> bytes:
    return event(problem.model_dump_json(), "problem")
