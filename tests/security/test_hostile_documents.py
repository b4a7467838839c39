"""Uploads made to hurt: they end as text or as a problem, within the limits, and show nothing of the machine."""

import asyncio
import contextlib
import gzip
import io
import time
import zipfile
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from gateway import documents
from gateway.app import create_app
from gateway.documents import Document, text_of
from gateway.errors import DocumentUnreadable, InvalidInput
from gateway.inference import EchoInference
from gateway.settings import Settings
from gateway.store.memory import MemoryStore
from tests.gateway.conftest import count_words
from tests.gateway.test_documents import pdf

pytestmark = pytest.mark.anyio

KNOWLEDGE: Final = "/v1/bots/bot/knowledge"
SECONDS: Final = 2.0
MEMORY: Final = 300_000_000


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def tight(monkeypatch: pytest.MonkeyPatch) -> None:
    """The product's limits are for its users' machines; the same ones, smaller, for this one."""
    monkeypatch.setattr(documents, "SECONDS", SECONDS)
    monkeypatch.setattr(documents, "MEMORY_BYTES", MEMORY)


def raw_pdf(*objects: bytes, trailer: bytes = b"") -> bytes:
    """Return a PDF of these objects; the first is the catalogue."""
    body, places = b"%PDF-1.7\n", []
    for number, item in enumerate(objects, 1):
        places.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, item)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    size = len(objects) + 1
    whole = body + b"xref\n0 %d\n0000000000 65535 f \n" % size + table
    return whole + b"trailer << /Size %d /Root 1 0 R %s >>\nstartxref\n%d\n%%%%EOF" % (size, trailer, len(body))


CATALOGUE: Final = b"<< /Type /Catalog /Pages 2 0 R >>"
PAGE: Final = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] /Contents 4 0 R >>"


def stream(data: bytes, filters: bytes = b"/FlateDecode") -> bytes:
    return b"<< /Length %d /Filter [%s] >>\nstream\n%s\nendstream" % (len(data), filters, data)


def squeezed(data: bytes, times: int) -> bytes:
    for _ in range(times):
        data = zlib.compress(data, 9)
    return data


def zip_bomb() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../../../tmp/escaped.txt", b"0" * 10_000_000)
    return packed.getvalue()


LAUGHS: Final = b"".join(
    b'<!ENTITY l%d "%s">' % (number, b"&l%d;" % (number - 1) * 10 if number else b"lol") for number in range(12)
)
ONE_PAGE: Final = b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>"
BOMBS: Final[dict[str, bytes]] = {
    "a stream of a hundred megabytes": raw_pdf(
        CATALOGUE, ONE_PAGE, PAGE, stream(squeezed(b"BT (a) Tj ET " * 8_000_000, 1))
    ),
    "a stream packed four times": raw_pdf(
        CATALOGUE, ONE_PAGE, PAGE, stream(squeezed(b"(a) Tj " * 30_000_000, 4), b"/FlateDecode " * 4)
    ),
    "pages that hold themselves": raw_pdf(CATALOGUE, b"<< /Type /Pages /Kids [2 0 R 2 0 R] /Count 2 >>"),
    "a million kids": raw_pdf(
        CATALOGUE,
        b"<< /Type /Pages /Count 999999999 /Kids [" + b"3 0 R " * 200_000 + b"] >>",
        PAGE,
        stream(squeezed(b"BT (a) Tj ET", 1)),
    ),
    "lists in lists": raw_pdf(CATALOGUE, b"<< /Type /Pages /Kids " + b"[" * 200_000 + b"]" * 200_000 + b" >>"),
    "lists in a page's stream": pdf(content=zlib.compress(b"[" * 3_000_000)),
    "names in names": raw_pdf(b"<< /A " * 100_000 + b">> " * 100_000),
    "a reference to itself": raw_pdf(b"1 0 R"),
    "a table that is its own predecessor": pdf("x")
    .replace(b"/Root", b"/Prev 9 /Root")
    .replace(b"startxref\n", b"startxref\n0"),
    "a length of all memory": raw_pdf(CATALOGUE, ONE_PAGE, PAGE, b"<< /Length 99999999999999 >>\nstream\nx\nendstream"),
    "no end": b"%PDF-1.7\n" + b"1 0 obj\n<< /A (" * 300_000,
    "a table of a billion": b"%PDF-1.7\nxref\n0 999999999\n0000000000 65535 f \ntrailer << /Size 9 >>\nstartxref\n9",
    "a million elements, each in the other": b"<html><body>" + b"<div>" * 1_000_000 + b"x",
    "a million attributes": b"<html><body><p " + b"".join(b"a%d=b " % number for number in range(300_000)) + b">x",
    "entities of entities": b"<!DOCTYPE html [" + LAUGHS + b"]><html><body>&l11;</body></html>",
    "an unknown charset": b"<html><meta charset=bz2><body>x",
    "a slow charset": b"<html><meta charset=punycode><body>" + b"x-" * 2_000_000,
    "lists in lists of Markdown": b"# a\n" + b"> " * 200_000 + b"x",
    "emphasis without end": b"# a\n" + b"*a **a " * 300_000,
    "links without end": b"# a\n" + b"[a](" * 500_000,
}
MARKDOWN: Final = ("lists in lists of Markdown", "emphasis without end", "links without end")


@pytest.mark.parametrize("name", BOMBS)
async def test_a_bomb_ends_within_its_limits_as_text_or_a_problem(name: str) -> None:
    started = time.monotonic()
    document = Document(content=BOMBS[name], name="a.md" if name in MARKDOWN else "")
    with contextlib.suppress(DocumentUnreadable, InvalidInput):
        assert len(await text_of(document, 1_000_000)) <= 1_000_000
    assert time.monotonic() - started < SECONDS + 20, "the limit did not hold"


@pytest.mark.parametrize(
    "markup",
    [
        b'<!DOCTYPE html [<!ENTITY x SYSTEM "file:///etc/passwd">]><html><body>a &x; b</body></html>',
        b'<html xmlns:xi="http://www.w3.org/2001/XInclude"><body>a <xi:include href="file:///etc/passwd"/> b',
        b'<html><body>a <iframe src="file:///etc/passwd"></iframe><object data="file:///etc/passwd"></object> b',
        b'<html><body>a <link rel=import href="file:///etc/passwd"><img src="file:///etc/passwd"> b',
    ],
    ids=["entity", "inclusion", "frame", "link"],
)
async def test_a_page_that_names_a_file_of_the_machine_gets_none_of_it(markup: bytes) -> None:
    text = await text_of(Document(content=markup))
    assert "a" in text
    assert "root:" not in text


async def test_a_reader_turned_against_us_has_no_secret_and_can_write_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GODEL_ADMIN_KEY", "an admin key for tests")
    turned = tmp_path / "gateway" / "extraction.py"
    turned.parent.mkdir()
    turned.with_name("__init__.py").touch()
    own = Path(documents.__file__).with_name("extraction.py").read_text(encoding="utf-8")
    written = tmp_path / "written"
    attack = f"""
def _decoded(content, encoding=None):
    said = [name for name in __import__("os").environ if name.startswith("GODEL_")]
    try:
        open({str(written)!r}, "w", buffering=1).write("x\\n")
    except OSError as error:
        said.append(type(error).__name__)
    return f"said {{said}}"


if __name__"""
    turned.write_text(own.replace("\n\nif __name__", attack), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert await text_of(Document(content=b"x")) == "said ['OSError']"
    assert written.stat().st_size == 0


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    settings = Settings(max_document_bytes=3_000_000)
    app = create_app(settings, store=MemoryStore(), inference=EchoInference(), count_tokens=count_words)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1", timeout=60) as client,
    ):
        (await client.put("/v1/bots/bot", json={"knowledge": "old"})).raise_for_status()
        yield client


def form(*parts: tuple[str, bytes]) -> dict[str, Any]:
    """Return a form of parts, each a disposition and a content, whatever they look like."""
    body = b"".join(b"--b\r\n" + head.encode() + b"\r\n\r\n" + content + b"\r\n" for head, content in parts)
    return {"content": body + b"--b--\r\n", "headers": {"Content-Type": "multipart/form-data; boundary=b"}}


FILE: Final = 'Content-Disposition: form-data; name="file"; filename="a.txt"'
TYPED: Final = {"Content-Type": "text/plain"}
UPLOADS: Final[dict[str, tuple[int, dict[str, Any]]]] = {
    "a zip": (415, {"content": zip_bomb(), "headers": {"Content-Type": "application/zip"}}),
    "a zip called text": (415, {"content": zip_bomb(), "headers": TYPED}),
    "packed in transfer": (
        415,
        {"content": gzip.compress(b"0" * 9_000_000), "headers": TYPED | {"Content-Encoding": "gzip"}},
    ),
    "nothing": (422, {"content": b"", "headers": TYPED}),
    "nothing in a form": (422, form((FILE, b""))),
    "no file in a form": (422, form(('Content-Disposition: form-data; name="file"', b"x"))),
    "two files": (422, form((FILE, b"x"), (FILE, b"y"))),
    "a thousand parts": (422, form(*[('Content-Disposition: form-data; name="x"', b"y")] * 1000)),
    "no disposition": (422, form(("X: y", b"x"))),
    "a part's headers without end": (422, form(*[("\r\n".join(f"X{n}: y" for n in range(50_000)), b"x")])),
    "a boundary without end": (
        422,
        {"content": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=" + "b" * 9000}},
    ),
    "no boundary": (422, {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}),
    "line ends without end": (
        422,
        {"content": b"\r\n" * 1_000_000, "headers": {"Content-Type": "multipart/form-data; boundary=b"}},
    ),
    "too large": (413, {"content": b"x" * 3_000_001, "headers": TYPED}),
    "too large in a form": (413, form((FILE, b"x" * 3_000_001))),
    "another type": (415, {"content": b"x", "headers": {"Content-Type": "application/x-sh"}}),
    "a type that is none": (415, {"content": b"x", "headers": {"Content-Type": "\x7f/;;;"}}),
}


@pytest.mark.parametrize("name", UPLOADS)
async def test_a_crooked_upload_is_refused_with_its_status_and_changes_nothing(
    client: httpx.AsyncClient, name: str
) -> None:
    status, upload = UPLOADS[name]
    response = await client.put(KNOWLEDGE, **upload)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert (await client.get("/v1/bots/bot")).json()["knowledge"] == "old"


def files_in(folder: Path) -> list[Path]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    return [*found, *(path for path in (Path("/escaped.txt"),) if path.exists())]


PLACES: Final = ["../escaped.txt", "../../../../escaped.txt", "/escaped.txt", "C:\\escaped.txt", "%2e%2e%2fescaped.txt"]


@pytest.mark.parametrize("name", [*PLACES, "a\0.txt", "." * 999 + "txt"])
async def test_a_file_name_is_a_name_and_no_place(
    client: httpx.AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    upload = form((f'Content-Disposition: form-data; name="file"; filename="{name}"', b"new"))
    assert (await client.put(KNOWLEDGE, **upload)).status_code in (200, 422)
    assert files_in(tmp_path) == []


async def test_no_more_documents_are_read_at_a_time_than_memory_allows(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = most = 0

    async def read(_document: Document, _longest: int) -> str:
        nonlocal reading, most
        reading += 1
        most = max(most, reading)
        for _ in range(100):  # turns of the event loop: longer than it takes all requests to come
            await asyncio.sleep(0)
        reading -= 1
        return "new"

    monkeypatch.setattr("gateway.routes.knowledge.text_of", read)
    replies = await asyncio.gather(*(client.put(KNOWLEDGE, content=b"x", headers=TYPED) for _ in range(20)))
    assert {reply.status_code for reply in replies} <= {200, 412}
    assert most == 4
