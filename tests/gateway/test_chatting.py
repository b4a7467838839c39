"""From message to answer: what goes into the prompt, what is left out, and by when."""

import asyncio
import time
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from limits.aio.storage import MemoryStorage

from gateway.admission import Admission
from gateway.bots import BotDraft
from gateway.chat import Chat, Question
from gateway.conversations import Conversations
from gateway.errors import BotNotFound, InvalidInput, ModelTimeout, PromptTooLong
from gateway.inference import EchoInference
from gateway.keys import LOCAL
from gateway.limits import RateLimits
from gateway.prompting import CHARACTERS_PER_TOKEN, PromptBuilder
from gateway.store.memory import MemoryStore, now
from gateway.tokens import CountTokens
from handler.contract.wire import GenerateReply, GenerateRequest
from tests.gateway.conftest import count_words

pytestmark = pytest.mark.anyio

NOW = 1_700_000_000.0


def prompts(count_tokens: CountTokens) -> PromptBuilder:
    return PromptBuilder(count_tokens=count_tokens, budget=60)


def chat_over(inference: Any, **options: Any) -> Chat:
    parts: dict[str, Any] = {
        "store": MemoryStore(),
        "inference": inference,
        "conversations": Conversations(store=MemoryStore(), idle=timedelta(hours=1), clock=now),
        "prompts": prompts(count_words),
        "timeout": 7.0,
        "max_message_characters": 1000,
        "max_knowledge_characters": 10_000,
        "limits": RateLimits(MemoryStorage(), {}),
        "admission": Admission(8, 8, clock=lambda: NOW),
        "clock": lambda: NOW,
    }
    return Chat(**parts | options)


def question(*turns: str, **options: Any) -> Question:
    fields: dict[str, Any] = {"bot_id": "bot", "turns": turns, "request_id": "r-1", "caller": LOCAL}
    return Question(**fields | options)


async def asked(chat: Chat, message: str = "How many?", **bot: Any) -> Any:
    await chat.store.put(BotDraft(bot_id="bot", **bot))
    return await chat.answer(question(message))


async def test_the_request_carries_its_id_and_the_deadline() -> None:
    model = EchoInference()
    await asked(chat_over(model))
    request = model.requests[0]
    assert (request.request_id, request.submitted_at, request.deadline) == ("r-1", NOW, NOW + 7)


async def test_what_does_not_fit_is_left_out_and_reported() -> None:
    answer = await asked(chat_over(EchoInference()), knowledge="One two three. " * 50)
    assert answer.prompt.tokens <= 60
    kept = answer.prompt.text.partition("[KNOWLEDGE] ")[2]
    assert kept
    assert answer.prompt.knowledge_characters_dropped == 50 * 15 - len(kept)


async def test_a_long_message_keeps_its_end() -> None:
    answer = await asked(chat_over(EchoInference()), "word " * 100 + "the question?", knowledge="k")
    assert answer.prompt.text.endswith("the question?")
    assert answer.prompt.message_characters_dropped > 0


async def test_a_whole_book_of_knowledge_is_not_counted_word_by_word() -> None:
    counted = 0

    def count(text: str) -> int:
        nonlocal counted
        counted += len(text)
        return count_words(text)

    book = "All work and no play. " * 45_000
    chat = chat_over(EchoInference(), prompts=prompts(count))
    answer = await asked(chat, knowledge=book)
    assert counted < 40 * 60 * CHARACTERS_PER_TOKEN
    kept = answer.prompt.text.partition("[KNOWLEDGE] ")[2]
    # Only the white space at the end of what was looked at may be missing from the sum.
    assert abs(len(book) - len(kept) - answer.prompt.knowledge_characters_dropped) <= 1


async def test_an_instruction_that_fills_the_prompt_is_a_clear_error() -> None:
    with pytest.raises(PromptTooLong, match="60 tokens"):
        await asked(chat_over(EchoInference()), instruction="word " * 70)


async def test_bad_input_is_found_before_the_bot_is_looked_up() -> None:
    chat = chat_over(EchoInference())
    with pytest.raises(InvalidInput):
        await chat.answer(question("", bot_id="nobody", parameters={"top_p": 3}))
    with pytest.raises(BotNotFound):
        await chat.answer(question("hello", bot_id="nobody"))


class Late(EchoInference):
    """Answers as the handler does when the deadline comes."""

    async def generate(self, request: GenerateRequest) -> GenerateReply:
        return replace(await EchoInference.generate(self, request), finish_reason="deadline")


async def test_a_late_answer_with_words_is_an_answer_and_without_a_timeout() -> None:
    assert (await asked(chat_over(Late()))).reply.finish_reason == "deadline"
    with pytest.raises(ModelTimeout):
        await asked(chat_over(Late(answer=lambda _: "")))


async def test_fitting_a_long_text_does_not_hold_up_other_requests() -> None:
    def slow(text: str) -> int:
        time.sleep(0.002)
        return count_words(text)

    chat = chat_over(EchoInference(), prompts=prompts(slow))
    await chat.store.put(BotDraft(bot_id="bot", knowledge="One two three. " * 1000))
    answering = asyncio.ensure_future(chat.answer(question("x")))
    turns = 0
    while not answering.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 5  # the loop went round while tokens were counted


@pytest.mark.parametrize("stream", [False, True])
async def test_who_leaves_before_the_answer_is_whole_has_spent_its_tokens_all_the_same(stream: bool) -> None:
    model = EchoInference(answer=lambda _: "one two three", gate=None if stream else asyncio.Event())
    async with RateLimits.open(None, {}) as limits:
        chat = chat_over(model, limits=limits, admission=Admission(8, 8))
        bot = await chat.store.put(BotDraft(bot_id="bot", limits={"tokens_per_minute": 1000}))
        if stream:
            parts = chat.stream(question("x"))
            assert await anext(parts) == "one "
            await parts.aclose()
        else:
            asking = asyncio.ensure_future(chat.answer(question("x")))
            await model.asked.wait()
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        standing = await limits.admit(LOCAL, bot)
    assert standing is not None
    spent = count_words(model.requests[-1].prompt) + (count_words("one ") if stream else 0)
    assert standing.remaining == 1000 - spent


async def test_the_models_own_defaults_are_used_where_nobody_says_otherwise() -> None:
    inference = EchoInference()
    chat = chat_over(inference, defaults={"min_length": 0, "max_length": 50})
    await asked(chat)
    assert (inference.requests[-1].parameters.min_length, inference.requests[-1].parameters.max_length) == (0, 50)
    await asked(chat, parameters={"min_length": 3})
    assert inference.requests[-1].parameters.min_length == 3
    with pytest.raises(InvalidInput, match="more than max_length 50"):
        await asked(chat, parameters={"min_length": 60})
