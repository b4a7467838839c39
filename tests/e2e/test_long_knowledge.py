"""A bot that knows three hundred pages, asked about the last."""

import httpx

from handler.contract.generation import GenerationParameters


def pages(count: int) -> str:
    """Return a text of `count` pages, each about another village."""
    paragraph = (
        "The village of {name} lies on the river. It has {houses} houses and a mill. In summer the people of {name}"
        " sell apples at the market, and in winter they mend their boats. An old road leads from {name} to the next"
        " valley. "
    )
    names = ("Ash", "Birk", "Corn", "Dun", "Elm", "Fern", "Glen", "Hazel", "Ivy", "Juniper")
    made = []
    for number in range(count):
        name = names[number % 10] + names[number // 10 % 10].lower() + "ford" * (1 + number // 100)
        made.append((paragraph.format(name=name, houses=20 + number) * 9).strip())
    return "\n\n".join(made)


def test_a_question_answered_on_the_last_of_three_hundred_pages_is_answered(http: httpx.Client) -> None:
    text = pages(300) + "\n\nThe lighthouse of Aldermoor was built by Martha Quill."
    assert 650_000 < len(text) < 1_000_000
    http.put("/v1/bots/atlas", json={"instruction": "qa"}).raise_for_status()
    measured = http.put("/v1/bots/atlas/knowledge", files={"file": ("atlas.txt", text.encode())}).raise_for_status()
    assert measured.json()["characters"] == len(text)
    assert measured.json()["tokens"] > 100_000
    asked = {
        "message": "Who built the lighthouse of Aldermoor?",
        "parameters": {"do_sample": False, "min_length": 0, "max_length": GenerationParameters().max_length},
    }
    reply = http.post("/v1/bots/atlas/chat", json=asked).raise_for_status().json()
    used = [text[passage["start"] : passage["end"]] for passage in reply["passages"]]
    assert any("Martha Quill" in passage for passage in used)
    assert "Martha" in reply["response"]
    assert reply["usage"]["prompt_tokens"] <= 512
    assert reply["left_out"]["knowledge_characters"] == len(text) - sum(map(len, used))
