"""The two short addresses: teach a bot by URL, talk to it by URL. The message is the whole rest of the path."""

from fastapi import Request
from starlette.convertors import Convertor, register_url_convertor

from gateway.access import GuardedRouter
from gateway.bots import check_bot_id
from gateway.chat import Question
from gateway.disconnect import while_connected
from gateway.problems import declared
from gateway.routes.chat_schemas import SeedOutput
from gateway.routes.schemas import BotId
from gateway.services import Asker, ServicesOf


class _AnyText(Convertor[str]):
    """The rest of a path as it is, slashes and line ends included (Starlette's own `path` stops at line ends)."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("anytext", _AnyText())

router = GuardedRouter(tags=["short addresses"])

_PERCENT = "Percent-encode what a URL cannot hold, a question mark as `%3F`; slashes may stay. Decoded exactly once."


@router.get(
    "/{bot_id}/context/{message:anytext}",
    summary="Teach a bot by URL",
    description=f"Makes the message the bot's knowledge; creates the bot if need be. {_PERCENT}",
    responses=declared(422, 503),
)
async def teach_by_url(bot_id: BotId, message: str, services: ServicesOf) -> SeedOutput:
    bot = await services.store.teach(services.rules.lesson(bot_id, message))
    return SeedOutput(response=f"Context updated successfully for {bot.bot_id}")


@router.get(
    "/{bot_id}/chat/{message:anytext}",
    summary="Talk to a bot by URL",
    description=f"Answers one message, with no memory of others. {_PERCENT}",
    responses=declared(404, 422, 429, 502, 503, 504),
)
async def chat_by_url(bot_id: BotId, message: str, request: Request) -> SeedOutput:
    asker = Asker.of(request)
    question = Question(
        bot_id=check_bot_id(bot_id),
        turns=[message],
        request_id=asker.request_id,
        caller=asker.caller,
        limited=asker.limited,
    )
    answer = await while_connected(request, asker.chat.answer(question))
    return SeedOutput(response=answer.reply.text)
