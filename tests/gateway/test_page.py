"""The page, in a real browser; behind it the gateway over HTTP, with an echo for a model."""

import asyncio
import re
import shutil
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Dialog, Locator, Page, Route, expect, sync_playwright
from pydantic import SecretStr

from gateway.app import create_app
from gateway.errors import ModelDown
from gateway.inference import EchoInference
from gateway.settings import Settings
from gateway.store.memory import MemoryStore
from handler.contract.wire import GenerateReply, GenerateRequest
from tests.gateway.conftest import count_words
from tests.gateway.required import require
from tests.gateway.serving import running

KNOWLEDGE = "The ball is red \N{CRICKET BAT AND BALL}. Eleven people play in a team. It takes days."
ANSWER = "Eleven people play in a team."

Visit = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    binary = require(shutil.which("chromium"), "Chromium", "apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def model() -> EchoInference:
    return EchoInference(answer=lambda _: ANSWER)


@pytest.fixture
def address(settings: Settings, model: EchoInference) -> Iterator[str]:
    app = create_app(
        settings.model_copy(update={"prompt_budget": 256}),
        store=MemoryStore(),
        inference=model,
        count_tokens=count_words,
    )
    with running(app) as url:
        yield url


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Visit]:
    """Open the page as a new visitor; fail when a page breaks, breaks its policy or asks a foreign host."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def open_page(**options: object) -> Page:
        context = browser.new_context(**{"bypass_csp": False, **options})  # type: ignore[arg-type]
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console",
            lambda message: complaints.append(message.text) if "Failed to load" not in message.text else None,
        )
        page.on(
            "request",
            lambda request: (
                complaints.append(request.url) if urlsplit(request.url).netloc != urlsplit(address).netloc else None
            ),
        )
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def locked(browser: Browser, settings: Settings, model: EchoInference) -> Iterator[tuple[Page, str]]:
    """The page of a gateway that asks for keys and has a bot; and a key that may chat with it, and no more."""
    key = "an admin key for tests"
    chosen = settings.model_copy(update={"admin_key": SecretStr(key)})
    with running(create_app(chosen, store=MemoryStore(), inference=model, count_tokens=count_words)) as url:
        headers = {"X-API-Key": key}
        httpx.put(f"{url}/v1/bots/cricket", json={"knowledge": KNOWLEDGE}, headers=headers).raise_for_status()
        wanted = {"scope": "chat", "bots": ["cricket"]}
        token = httpx.post(f"{url}/v1/keys", json=wanted, headers=headers).json()["token"]
        page = browser.new_page()
        page.set_default_timeout(10_000)
        page.goto(url)
        yield page, token
        page.close()


def make_bot(page: Page, name: str = "cricket") -> None:
    page.get_by_role("button", name="New bot").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name", exact=True).fill(name)
    dialog.get_by_label("What it knows").fill(KNOWLEDGE)
    dialog.get_by_role("button", name="Create").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(name)


def say(page: Page, message: str) -> None:
    page.get_by_label("Message", exact=True).fill(message)
    page.keyboard.press("Enter")


def write_knowledge(page: Page, text: str) -> Locator:
    page.get_by_role("button", name="Knowledge", exact=True).click()
    page.get_by_role("button", name="Edit").click()
    editor = page.locator("#text")
    editor.fill(text)
    return editor


def log(page: Page) -> list[str]:
    return page.locator("#turns p").all_inner_texts()


def test_a_visitor_makes_a_bot_asks_it_and_sees_where_the_answer_comes_from(visit: Visit) -> None:
    page = visit()
    expect(page.get_by_text("There is no bot yet")).to_be_visible()
    make_bot(page)
    say(page, "How many?")
    page.get_by_role("button", name="Show where it comes from").click()
    expect(page.locator("#passages mark strong")).to_have_text(ANSWER)
    expect(page.locator("#passages")).to_have_text(KNOWLEDGE)
    assert log(page) == ["How many?", ANSWER]


def test_long_knowledge_shows_the_chosen_passages_apart(visit: Visit, address: str, model: EchoInference) -> None:
    filler = " ".join(f"Sentence number {number} is about nothing at all." for number in range(60))
    knowledge = f"\N{GRINNING FACE} {filler} Whales are mammals of the sea. {filler}"
    httpx.put(f"{address}/v1/bots/long", json={"knowledge": knowledge}).raise_for_status()
    model.answer = lambda _: "Whales are mammals of the sea."
    page = visit()
    say(page, "What are whales?")
    page.get_by_role("button", name="Show where it comes from").click()
    expect(page.locator("#passages strong:not(:empty)")).to_have_text("Whales are mammals of the sea.")
    marked = "".join(page.locator("#passages mark").all_inner_texts())
    assert len(marked) < len(knowledge) / 4


class Endless(EchoInference):
    """A model that says one word and never comes to an end."""

    async def stream(self, request: GenerateRequest) -> AsyncGenerator[str | GenerateReply, None]:
        self.requests.append(request)
        yield "word"
        await asyncio.Event().wait()


@pytest.mark.parametrize("model", [Endless()])
def test_an_answer_appears_while_it_is_made_and_can_be_stopped(visit: Visit) -> None:
    page = visit()
    make_bot(page)
    say(page, "Go on")
    expect(page.locator("#turns .bot p")).to_contain_text("word")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#turns .bot p")).to_contain_text("stopped")
    expect(page.get_by_role("button", name="Send")).to_be_visible()


def test_conversations_come_back_after_a_reload_and_nobody_else_sees_them(visit: Visit) -> None:
    page = visit()
    make_bot(page)
    say(page, "first words")
    expect(page.locator("#turns footer")).to_have_count(1)
    page.get_by_role("button", name="New conversation").click()
    say(page, "second words")
    expect(page.locator("#turns footer")).to_have_count(1)
    page.reload()
    page.get_by_role("button", name="first words", exact=True).click()
    expect(page.locator("#turns p")).to_have_count(2)
    assert log(page) == ["first words", ANSWER]
    other = visit()
    expect(other.get_by_role("heading", level=1)).to_have_text("cricket")
    assert other.locator("#conversations li").count() == 0
    page.get_by_role("button", name=re.compile("Forget .first words")).click()
    expect(page.locator("#conversations li")).to_have_count(1)


def test_a_bot_chosen_while_a_conversation_begins_does_not_get_it(visit: Visit) -> None:
    page = visit()
    make_bot(page, "chess")
    make_bot(page, "cricket")
    held: list[Route] = []
    page.route("**/v1/bots/cricket/sessions", lambda route: held.append(route))
    say(page, "How many?")
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    page.get_by_label("Bot", exact=True).select_option("chess")
    while not held:
        page.wait_for_timeout(10)
    with page.expect_response("**/v1/bots/cricket/sessions"):
        held[0].continue_()
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    say(page, "Who moves first?")
    expect(page.locator("#turns footer")).to_have_count(1)
    assert log(page) == ["Who moves first?", ANSWER]
    expect(page.get_by_role("alert")).to_be_hidden()


def test_what_goes_wrong_is_told_and_the_message_is_not_lost(visit: Visit, model: EchoInference) -> None:
    page = visit()
    make_bot(page)
    model.failure = ModelDown("no worker has loaded the model")
    say(page, "Hello?")
    expect(page.get_by_role("alert")).to_contain_text("no worker has loaded the model")
    expect(page.get_by_label("Message", exact=True)).to_have_value("Hello?")
    model.failure = None
    page.keyboard.press("Enter")
    expect(page.locator("#turns footer")).to_have_count(1)
    expect(page.get_by_role("alert")).to_be_hidden()
    assert log(page) == ["Hello?", ANSWER]


def test_what_is_gone_is_told_in_a_persons_words(visit: Visit, address: str) -> None:
    page = visit()
    make_bot(page)
    say(page, "Hello?")
    expect(page.locator("#turns footer")).to_have_count(1)
    session = httpx.get(f"{address}/v1/bots/cricket/sessions").json()["sessions"][0]["session_id"]
    httpx.delete(f"{address}/v1/bots/cricket/sessions/{session}").raise_for_status()
    say(page, "Are you there?")
    expect(page.get_by_role("alert")).to_contain_text("This conversation is not there any more.")
    expect(page.get_by_label("Message", exact=True)).to_have_value("Are you there?")
    httpx.delete(f"{address}/v1/bots/cricket").raise_for_status()
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("This bot is not there any more.")


def test_a_question_that_failed_stands_in_one_place_only(visit: Visit, model: EchoInference) -> None:
    page = visit()
    make_bot(page)
    message = page.get_by_label("Message", exact=True)
    model.failure = ModelDown("no worker has loaded the model")
    say(page, "Hello?")
    expect(message).to_have_value("Hello?")
    expect(page.locator("#turns p")).to_have_count(0)
    expect(page.locator("#turns")).to_contain_text("Ask something")
    message.fill("")

    def fail_while_the_next_is_written(route: Route) -> None:
        message.fill("The next one")
        route.fulfill(status=503, json={"detail": "no worker"})

    page.route("**/chat", fail_while_the_next_is_written)
    say(page, "Hello again?")
    expect(page.locator("#turns p")).to_have_text(["Hello again?", " (failed; not remembered)"])
    expect(message).to_have_value("The next one")


def test_a_bot_that_could_not_be_made_stays_in_the_dialog_with_the_reason(visit: Visit) -> None:
    page = visit()
    make_bot(page)
    page.get_by_role("button", name="New bot").click()
    dialog = page.get_by_role("dialog")
    name = dialog.get_by_label("Name", exact=True)
    name.fill("cricket")
    dialog.get_by_label("What it knows").fill("Much.")
    dialog.get_by_role("button", name="Create").click()
    expect(dialog.get_by_role("alert")).to_contain_text("already there: cricket")
    expect(name).to_have_value("cricket")
    expect(name).to_be_focused()
    expect(dialog.get_by_label("What it knows")).to_have_value("Much.")
    name.fill("metrics")
    name.press("Enter")
    expect(dialog.get_by_role("alert")).to_contain_text("bot_id")
    name.fill("chess")
    name.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("chess")
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    page.get_by_role("button", name="New bot").click()
    expect(dialog.get_by_role("alert")).to_be_hidden()
    expect(name).to_have_value("")


def test_a_name_that_breaks_the_rule_is_answered_with_the_rule(visit: Visit) -> None:
    page = visit()
    page.get_by_role("button", name="New bot").click()
    name = page.get_by_role("dialog").get_by_label("Name", exact=True)
    name.fill("-my bot")
    page.get_by_role("dialog").get_by_role("button", name="Create").click()
    expect(name).to_have_js_property("validationMessage", page.locator("#bot-name-rule").inner_text())
    expect(page.get_by_role("dialog")).to_be_visible()
    name.fill("my-bot")
    page.get_by_role("dialog").get_by_role("button", name="Create").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("my-bot")


def test_knowledge_is_edited_and_uploaded(visit: Visit, tmp_path: Path) -> None:
    page = visit()
    make_bot(page)
    page.get_by_role("button", name="Knowledge", exact=True).click()
    expect(page.locator("#passages")).to_have_text(KNOWLEDGE)
    page.get_by_role("button", name="Edit").click()
    page.locator("#text").fill("Chess is a game for two.")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#passages")).to_have_text("Chess is a game for two.")
    document = tmp_path / "go.md"
    document.write_text("# Go\n\nGo is *older*.")
    page.locator("#document").set_input_files(document)
    expect(page.locator("#passages")).to_contain_text("Go is older.")
    expect(page.locator("#measure")).to_contain_text("tokens")
    document.with_suffix(".zip").write_bytes(b"PK\3\4")
    page.locator("#document").set_input_files(document.with_suffix(".zip"))
    expect(page.get_by_role("alert")).to_contain_text("send .txt, .md, .html or .pdf")
    expect(page.locator("#passages")).to_contain_text("Go is older.")


def test_two_editors_do_not_overwrite_each_other(visit: Visit, address: str) -> None:
    page = visit()
    make_bot(page)
    page.get_by_role("button", name="Knowledge", exact=True).click()
    page.get_by_role("button", name="Edit").click()
    httpx.patch(f"{address}/v1/bots/cricket", json={"knowledge": "Theirs."}).raise_for_status()
    page.locator("#text").fill("Mine.")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("alert")).to_contain_text("changed this bot since you read it")
    expect(page.locator("#text")).to_have_value("Mine.")
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#passages")).to_have_text("Theirs.")
    page.get_by_role("button", name="Edit").click()
    page.locator("#text").fill("Mine, after theirs.")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#passages")).to_have_text("Mine, after theirs.")


def reload(page: Page, _: Path) -> None:
    page.evaluate("() => { setTimeout(() => location.reload()); }")  # page.reload() fails when it is refused


WAYS_OUT: dict[str, Callable[[Page, Path], object]] = {
    "Cancel": lambda page, _: page.get_by_role("button", name="Cancel").click(),
    "the panel's cross": lambda page, _: page.get_by_role("button", name="Close knowledge").click(),
    "the panel's button": lambda page, _: page.get_by_role("button", name="Knowledge", exact=True).click(),
    "the sources": lambda page, _: page.get_by_role("button", name="Show where it comes from").click(),
    "another bot": lambda page, _: page.get_by_label("Bot", exact=True).select_option("chess"),
    "New bot": lambda page, _: page.get_by_role("button", name="New bot").click(),
    "Upload": lambda page, path: page.locator("#document").set_input_files(path),
    "reload": reload,
}


def unsaved(visit: Visit, tmp_path: Path) -> tuple[Page, Locator, Path]:
    """Return a page on which somebody writes, with all ways out at hand; the editor; and a document to upload."""
    document = tmp_path / "go.md"
    document.write_text("Go is older.")
    page = visit()
    make_bot(page, "chess")
    make_bot(page, "cricket")
    say(page, "How many?")
    expect(page.locator("#turns footer")).to_have_count(1)
    editor = write_knowledge(page, "Mine.")
    return page, editor, document


def test_what_was_written_is_not_thrown_away_unasked(visit: Visit, tmp_path: Path) -> None:
    page, editor, document = unsaved(visit, tmp_path)
    page.on("dialog", lambda dialog: dialog.dismiss())
    for leave in WAYS_OUT.values():
        with page.expect_event("dialog"):
            leave(page, document)
        expect(editor).to_be_visible()
        expect(editor).to_have_value("Mine.")
        expect(page.get_by_label("Bot", exact=True)).to_have_value("cricket")
        expect(page.get_by_role("dialog")).to_be_hidden()
    editor.press("Escape")
    page.get_by_role("button", name="Edit").click()
    expect(editor).to_have_value("Mine.")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#passages")).to_have_text("Mine.")


@pytest.mark.parametrize("way", [way for way in WAYS_OUT if way != "reload"])
def test_what_was_written_can_be_given_up(visit: Visit, tmp_path: Path, way: str) -> None:
    page, editor, document = unsaved(visit, tmp_path)
    page.on("dialog", lambda dialog: dialog.accept())
    with page.expect_event("dialog"):
        WAYS_OUT[way](page, document)
    expect(editor).to_be_hidden()


def test_an_editor_in_which_nothing_was_changed_is_left_without_a_question(visit: Visit, address: str) -> None:
    lines = "One.\r\nTwo."  # which an editor shows with ends of its own
    httpx.put(f"{address}/v1/bots/cricket", json={"knowledge": lines}).raise_for_status()
    page = visit()
    asked: list[str] = []

    def answer(dialog: Dialog) -> None:
        asked.append(dialog.message)
        dialog.accept()

    page.on("dialog", answer)
    editor = write_knowledge(page, "Three.")
    editor.fill("One.\nTwo.")
    page.keyboard.press("Escape")
    expect(editor).to_be_hidden()
    expect(page.get_by_role("complementary")).to_be_visible()
    page.get_by_role("button", name="Edit").click()
    page.get_by_role("button", name="Close knowledge").click()
    expect(page.get_by_role("complementary")).to_be_hidden()
    assert asked == []


def test_what_was_written_outlives_the_key_it_was_written_with(visit: Visit) -> None:
    page = visit()
    make_bot(page)
    editor = write_knowledge(page, "Mine.")
    page.route("**/v1/bots/cricket", lambda route: route.fulfill(status=401, json={"detail": "no longer valid"}))
    page.get_by_role("button", name="Save").click()
    page.get_by_label("Key", exact=True).fill("another")
    page.unroute("**/v1/bots/cricket")
    page.get_by_role("button", name="Use it").click()
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(editor).to_have_value("Mine.")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#passages")).to_have_text("Mine.")


def test_knowledge_that_could_not_be_read_cannot_be_overwritten(visit: Visit, address: str) -> None:
    page = visit()
    make_bot(page)
    page.route("**/v1/bots/cricket", lambda route: route.fulfill(status=503, json={"detail": "the database is locked"}))
    page.get_by_role("button", name="Knowledge", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("the database is locked")
    expect(page.get_by_role("button", name="Edit")).to_be_disabled()
    expect(page.locator("#document")).to_be_disabled()
    page.unroute("**/v1/bots/cricket")
    page.get_by_role("button", name="Knowledge", exact=True).click()
    page.get_by_role("button", name="Knowledge", exact=True).click()
    page.get_by_role("button", name="Edit").click()
    expect(page.locator("#text")).to_have_value(KNOWLEDGE)
    assert httpx.get(f"{address}/v1/bots/cricket").json()["knowledge"] == KNOWLEDGE


def test_settings_are_those_of_the_contract_and_go_with_the_message(visit: Visit, model: EchoInference) -> None:
    page = visit()
    make_bot(page)
    page.get_by_role("button", name="Settings").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("max length").fill("33")
    dialog.get_by_label("do sample").select_option("yes")
    dialog.get_by_label("Colours").select_option("Dark")
    dialog.get_by_role("button", name="Save").click()
    assert page.evaluate_handle("document.documentElement").as_element() is not None
    expect(page.locator("html")).to_have_css("color-scheme", "dark")
    say(page, "x")
    expect(page.locator("#turns footer")).to_have_count(1)
    assert (model.requests[-1].parameters.max_length, model.requests[-1].parameters.do_sample) == (33, True)


def test_empty_settings_show_what_the_bot_says(visit: Visit, address: str) -> None:
    parameters = {"max_length": 33, "do_sample": False}
    httpx.put(f"{address}/v1/bots/terse", json={"parameters": parameters}).raise_for_status()
    page = visit()
    page.get_by_role("button", name="Settings").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_label("max length")).to_have_attribute("placeholder", "33")
    expect(dialog.get_by_label("do sample").locator("option:checked")).to_have_text("(no)")
    expect(dialog.get_by_label("top p")).to_have_attribute("placeholder", "0.9")


def test_a_key_that_may_not_read_the_bot_is_shown_the_defaults_as_such(locked: tuple[Page, str]) -> None:
    page, token = locked
    page.get_by_label("Key", exact=True).fill(token)
    page.get_by_role("button", name="Use it").click()
    page.get_by_role("button", name="Settings").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_label("max length")).to_have_attribute("placeholder", "128")
    expect(dialog).to_contain_text("Your key may not read it")
    expect(page.get_by_role("alert")).to_be_hidden()


def test_a_bot_is_deleted_only_when_that_is_meant(visit: Visit) -> None:
    page = visit()
    make_bot(page)
    page.get_by_role("button", name="Settings").click()
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.get_by_role("button", name="Delete this bot").click()
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete this bot").click()
    expect(page.get_by_text("There is no bot yet")).to_be_visible()


def test_the_keyboard_alone_is_enough(visit: Visit) -> None:
    page = visit()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the message")).to_be_focused()
    page.get_by_role("button", name="New bot").focus()
    page.keyboard.press("Enter")
    page.keyboard.type("cricket")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.type(KNOWLEDGE)
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    page.keyboard.type("How many?")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("Tell me.")
    page.keyboard.press("Enter")
    expect(page.locator("#turns footer")).to_have_count(1)
    assert log(page)[0] == "How many?\nTell me."
    page.get_by_role("button", name="Show where it comes from").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("complementary")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("complementary")).to_be_hidden()


def test_it_fits_a_phone(visit: Visit) -> None:
    page = visit(viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True)
    expect(page.get_by_role("navigation")).to_be_hidden()
    page.get_by_role("button", name="Bots").click()
    make_bot(page)
    expect(page.get_by_role("navigation")).to_be_hidden()
    say(page, "How many players are there in a team of theirs?")
    page.get_by_role("button", name="Show where it comes from").click()
    expect(page.locator("#passages mark strong")).to_be_in_viewport()
    width = page.locator("body").bounding_box()
    assert width is not None
    assert width["width"] == 360
    page.get_by_role("button", name="Close knowledge").click()
    expect(page.get_by_role("button", name="Send")).to_be_in_viewport()


@pytest.mark.parametrize("model", [Endless()])
def test_the_focus_goes_to_the_message_when_the_button_that_was_used_is_gone(visit: Visit) -> None:
    page = visit()
    make_bot(page)
    message = page.get_by_label("Message", exact=True)
    message.fill("Go on")
    page.get_by_role("button", name="Send").click()
    expect(message).to_be_focused()
    page.get_by_role("button", name="Stop").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()
    expect(message).to_be_focused()


def test_the_focus_goes_to_edit_when_the_editor_closes(visit: Visit) -> None:
    page = visit()
    make_bot(page)
    editor = write_knowledge(page, "Saved.")
    edit = page.get_by_role("button", name="Edit")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#passages")).to_have_text("Saved.")
    expect(edit).to_be_focused()
    page.keyboard.press("Enter")
    expect(editor).to_be_focused()
    page.keyboard.press("Escape")
    expect(edit).to_be_focused()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Cancel").click()
    expect(edit).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Knowledge", exact=True)).to_be_focused()


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_it_breaks_no_rule_of_accessibility(visit: Visit, colours: str) -> None:
    page = visit(color_scheme=colours, bypass_csp=True)  # axe has to be put into the page
    make_bot(page)
    say(page, "How many?")
    page.get_by_role("button", name="Show where it comes from").click()
    expect(page.locator("#passages mark strong")).to_be_visible()
    for opened in (None, "New bot", "Settings"):
        if opened:
            page.get_by_role("button", name=opened).click()
        if opened == "New bot":
            page.get_by_role("dialog").get_by_label("Name", exact=True).fill("cricket")
            page.keyboard.press("Enter")
            expect(page.get_by_role("dialog").get_by_role("alert")).to_be_visible()
        found = Axe().run(page).response["violations"]
        assert [(rule["id"], node["html"]) for rule in found for node in rule["nodes"]] == []
        page.keyboard.press("Escape")


def test_a_key_is_asked_for_where_one_is_needed(locked: tuple[Page, str]) -> None:
    page, token = locked
    for tried in ("wrong", token):
        page.get_by_label("Key", exact=True).fill(tried)
        page.get_by_role("button", name="Use it").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("cricket")
    say(page, "How many?")
    expect(page.locator("#turns footer")).to_have_count(1)
    page.get_by_role("button", name="Knowledge", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("scope edit")
    assert token not in str(page.context.storage_state())


def test_nothing_but_a_key_closes_the_question_for_one(locked: tuple[Page, str]) -> None:
    page, token = locked
    dialog = page.get_by_role("dialog", name="A key is needed")
    expect(dialog).to_be_visible()
    for _ in range(3):
        page.keyboard.press("Escape")
        expect(dialog).to_be_visible()
    expect(dialog.get_by_role("alert")).to_be_hidden()
    dialog.get_by_label("Key", exact=True).fill("wrong")
    dialog.get_by_role("button", name="Use it").click()
    expect(dialog.get_by_role("alert")).to_contain_text("not, or no longer, valid")
    expect(page.locator("#problem")).to_be_hidden()
    expect(dialog.get_by_label("Key", exact=True)).to_be_focused()
    page.reload()
    expect(dialog.get_by_role("alert")).to_contain_text("not, or no longer, valid")
    dialog.get_by_label("Key", exact=True).fill(token)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("cricket")
    expect(dialog).to_be_hidden()


def test_the_files_come_with_a_strict_policy_and_nothing_else_is_served(address: str) -> None:
    for path in ("/", "/static/page.js", "/static/page.css", "/static/icon.svg"):
        response = httpx.get(f"{address}{path}")
        assert response.status_code == 200
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"
    for path in ("/static/..%2fapp.py", "/static/nosuch.js", "/static/%2e%2e/app.py"):
        assert httpx.get(f"{address}{path}").status_code == 404
    page = httpx.get(address).text
    assert not re.search(r"<script(?![^>]*src=)|\son\w+=|style=|https?://", page)


def test_the_interface_is_shown_with_nothing_from_elsewhere_and_can_be_tried(visit: Visit, address: str) -> None:
    page = visit()
    page.goto(f"{address}/docs")
    page.get_by_role("button", name="Is the process alive?", exact=False).first.click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    expect(page.locator(".live-responses-table")).to_contain_text('"ok"')
