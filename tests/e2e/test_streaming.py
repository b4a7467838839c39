"""Answers as they are made, from the engine through TorchServe and the gateway to many clients at once."""

import asyncio
import json
import time

import httpx
import openai

from launcher.serve import Stack
from tests.gateway.events import Event, parse

STREAMS = 64


def answer_in(events: list[Event]) -> str:
    """Return the text of the parts, which is that of the last event."""
    *parts, last = events
    assert last.name == "answer", last
    text = "".join(json.loads(part.data)["text"] for part in parts)
    assert text == json.loads(last.data)["response"]
    return text


def test_a_streamed_answer_is_the_answer_and_comes_in_parts(http: httpx.Client, passage: str) -> None:
    http.put("/v1/bots/streamed", json={"knowledge": passage}).raise_for_status()
    question = {"message": "What is the objective of the game?", "parameters": {"do_sample": False, "min_length": 96}}
    whole = http.post("/v1/bots/streamed/chat", json=question).raise_for_status().json()
    events = parse(http.post("/v1/bots/streamed/chat", json=question | {"stream": True}).raise_for_status().text)
    assert answer_in(events) == whole["response"]
    assert len(events) > 2  # parts, and the answer
    assert json.loads(events[-1].data)["usage"] == whole["usage"]


def test_sixty_four_streams_at_once_each_get_their_own_answer(stack: Stack) -> None:
    async def told(client: httpx.AsyncClient, number: int) -> str:
        bot = f"/v1/bots/marker-{number}"
        knowledge = f"The secret number of team {number} is {1000 + 37 * number}. Every team has eleven players."
        (await client.put(bot, json={"knowledge": knowledge})).raise_for_status()
        question = {"message": f"What is the secret number of team {number}?", "parameters": {"do_sample": False}}
        response = await client.post(f"{bot}/chat", json=question | {"stream": True})
        assert response.status_code == 200, response.text
        return answer_in(parse(response.text))

    async def everybody() -> list[str]:
        limits = httpx.Limits(max_connections=STREAMS)
        async with httpx.AsyncClient(base_url=stack.gateway_url, timeout=120, limits=limits) as client:
            return await asyncio.gather(*(told(client, number) for number in range(STREAMS)))

    answers = asyncio.run(everybody())
    foreign = {str(1000 + 37 * number) for number in range(STREAMS)}
    right = 0
    for number, text in enumerate(answers):
        found = {word for word in foreign if word in text}
        assert found <= {str(1000 + 37 * number)}, f"stream {number} got the answer of another: {text}"
        right += bool(found)
    assert right > STREAMS / 2  # a small model; that some markers come through is what makes mixing visible


def test_a_client_that_leaves_a_stream_frees_its_slot(stack: Stack, http: httpx.Client, passage: str) -> None:
    """More streams than slots, all abandoned: somebody new still gets a slot of their own at once."""
    http.put("/v1/bots/left", json={"knowledge": passage}).raise_for_status()
    endless = {"message": "Tell me all.", "parameters": {"min_length": 256, "max_length": 256}, "stream": True}

    async def leave() -> None:
        async with httpx.AsyncClient(base_url=stack.gateway_url, timeout=60) as client:

            async def look_and_go() -> None:
                async with client.stream("POST", "/v1/bots/left/chat", json=endless) as response:
                    await anext(response.aiter_bytes())

            await asyncio.gather(*(look_and_go() for _ in range(24)))

    asyncio.run(leave())
    deadline = time.monotonic() + 20
    while True:
        parameters = {"max_length": 8, "min_length": 0, "do_sample": False}
        asked = {"message": "How many players?", "parameters": parameters}
        reply = http.post("/v1/bots/left/chat", json=asked).raise_for_status().json()
        if reply["timing"]["batch_size"] == 1:
            break
        assert time.monotonic() < deadline, "the abandoned streams still hold their slots"


def test_the_openai_client_talks_to_a_bot(stack: Stack, http: httpx.Client, passage: str) -> None:
    http.put("/v1/bots/openai", json={"knowledge": passage}).raise_for_status()
    with openai.OpenAI(base_url=f"{stack.gateway_url}/v1", api_key="none") as client:
        messages = [{"role": "user", "content": "How many players are in each team?"}]
        whole = client.chat.completions.create(model="openai", messages=messages, temperature=0)  # type: ignore[arg-type]
        chunks = client.chat.completions.create(
            model="openai",
            messages=messages,  # type: ignore[arg-type]
            temperature=0,
            stream=True,
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)  # type: ignore[union-attr]
        assert text == whole.choices[0].message.content
        assert text.strip()
