"""Documents become a bot's knowledge, or a clear word on why they cannot."""

import asyncio
import io
import zlib

import httpx
import pytest
from pypdf import PdfReader, PdfWriter

from gateway import documents
from gateway.documents import Document, text_of
from gateway.errors import DocumentUnreadable, UnsupportedDocument

pytestmark = pytest.mark.anyio

KNOWLEDGE = "/v1/bots/cricket/knowledge"


def pdf(*lines: str, password: str = "", content: bytes | None = None) -> bytes:
    """Return a PDF of one page with these lines, written by hand: the format's own minimal example."""
    if content is None:
        shown = "".join(f"({line}) Tj 0 -20 Td " for line in lines)
        content = f"BT /F1 12 Tf 50 700 Td {shown}ET".encode()
        stream = b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content)
    else:
        stream = b"<< /Length %d /Filter /FlateDecode >>\nstream\n%s\nendstream" % (len(content), content)
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R"
        b" /Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>",
        stream,
    ]
    body, places = b"%PDF-1.4\n", []
    for number, item in enumerate(objects, 1):
        places.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, item)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    whole = body + b"xref\n0 5\n0000000000 65535 f \n" + table
    whole += b"trailer << /Size 5 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % len(body)
    if not password:
        return whole
    writer, locked = PdfWriter(clone_from=PdfReader(io.BytesIO(whole))), io.BytesIO()
    writer.encrypt(password, algorithm="RC4-128")
    writer.write(locked)
    return locked.getvalue()


HTML = (
    b"<!DOCTYPE html><html><head><title>t</title><style>p{}</style></head><body><nav>Menu</nav>"
    b"<h1>Cricket</h1><p>Eleven&nbsp;play in <b>each</b> team.</p><script>alert(1)</script><ul><li>bat</li>"
    b"<li>ball</li></ul></body></html>"
)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (Document(content="Zwölf spielen.".encode()), "Zwölf spielen."),
        (
            Document(content="Zwölf spielen heute, schöne Grüße.".encode("latin-1")),
            "Zwölf spielen heute, schöne Grüße.",
        ),
        (Document(content="\ufeffA b.\r\n\r\n\r\n\r\nC".encode("utf-8")), "A b.\n\nC"),
        (Document(content=HTML), "Cricket\n\nEleven play in each team.\n\nbat\n\nball"),
        (
            Document(content=b"# Cricket\n\nEleven *play*.\n\n- bat\n- ball", name="a.md"),
            "Cricket\n\nEleven play.\n\nbat\n\nball",
        ),
        (Document(content=b"# no heading", name="a.txt"), "# no heading"),
        (Document(content=pdf("Eleven play in", "each team."), name="wrong.txt"), "Eleven play in each team."),
    ],
    ids=["utf-8", "latin-1", "byte order mark", "html", "markdown", "text", "a PDF under another name"],
)
async def test_the_text_of_a_document(document: Document, expected: str) -> None:
    text = await text_of(document)
    assert "".join(text.split()) == "".join(expected.split())
    assert text.split("\n")[0] == expected.split("\n")[0]


@pytest.mark.parametrize(
    "document",
    [
        Document(content=b"\x89PNG\r\n\x1a\n\0\0", name="a.png"),
        Document(content=b"PK\3\4\0\0", media_type="application/vnd.oasis.opendocument.text"),
        Document(content=b"\0\1\2"),
        Document(content=b"no pdf", media_type="application/pdf"),
        Document(content=b"text", name="a.docx"),
    ],
    ids=["picture", "office", "binary", "not what it says", "unknown ending"],
)
async def test_what_cannot_be_read_is_refused(document: Document) -> None:
    with pytest.raises(UnsupportedDocument):
        await text_of(document)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (Document(content=pdf("secret", password="x")), "encrypted"),  # noqa: S106 - of a test's file
        (Document(content=b"%PDF-1.4\nnothing"), "damaged"),
        (Document(content=pdf("")), "no text"),
        (Document(content=b"<html><body></body></html>"), "no text"),
    ],
    ids=["encrypted", "damaged", "scanned", "empty"],
)
async def test_a_document_that_gives_no_text_says_why(document: Document, reason: str) -> None:
    with pytest.raises(DocumentUnreadable, match=reason):
        await text_of(document)


async def test_a_document_that_unpacks_beyond_all_measure_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MEMORY_BYTES", 250_000_000)
    bomb = pdf(content=zlib.compress(b"BT (a) Tj ET " * 40_000_000, 9))
    assert len(bomb) < 2_000_000
    with pytest.raises(DocumentUnreadable):
        await text_of(Document(content=bomb))


async def test_reading_that_takes_too_long_is_stopped_and_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "SECONDS", 0.01)
    with pytest.raises(DocumentUnreadable, match="seconds"):
        await text_of(Document(content=pdf("x")))
    await asyncio.sleep(0)


async def test_an_upload_replaces_the_knowledge_and_keeps_the_rest(client: httpx.AsyncClient) -> None:
    await client.put("/v1/bots/cricket", json={"name": "C", "instruction": "qa", "knowledge": "old"})
    form = await client.put(KNOWLEDGE, files={"file": ("a.html", HTML, "text/html")})
    assert (form.status_code, form.json()["passages"]) == (200, 1)
    bot = (await client.get("/v1/bots/cricket")).json()
    assert (bot["name"], bot["instruction"]) == ("C", "qa")
    assert "Eleven play in each team." in bot["knowledge"]
    raw = await client.put(KNOWLEDGE, content=b"Eleven play.", headers={"Content-Type": "text/plain; charset=utf-8"})
    assert raw.json() == {"bot_id": "cricket", "characters": 12, "tokens": 3, "passages": 1}
    assert (await client.get(KNOWLEDGE)).json() == raw.json()
    assert (await client.get("/v1/bots/cricket")).json()["knowledge"] == "Eleven play."


async def test_uploads_that_cannot_be_taken_say_why_and_change_nothing(client: httpx.AsyncClient) -> None:
    tag = (await client.put("/v1/bots/cricket", json={"knowledge": "old"})).headers["etag"]
    plain = {"Content-Type": "text/plain"}
    for response, status in (
        (await client.put("/v1/bots/nobody/knowledge", content=b"x", headers=plain), 404),
        (await client.put(KNOWLEDGE, content=b"", headers=plain), 422),
        (await client.put(KNOWLEDGE, files={"other": ("a.txt", b"x")}), 422),
        (await client.put(KNOWLEDGE, content=b"x", headers={"Content-Type": "image/png"}), 415),
        (await client.put(KNOWLEDGE, content=b"x" * 1_000_001, headers=plain), 422),
        (await client.put(KNOWLEDGE, content=b"x", headers=plain | {"If-Match": '"1-0"'}), 412),
        (await client.put(KNOWLEDGE, content=b"x", headers={"Content-Type": "multipart/form-data"}), 422),
        (await client.put(KNOWLEDGE, files=[("file", ("a.txt", b"x")), ("file", ("b.txt", b"x"))]), 422),
    ):
        assert response.status_code == status, response.text
        assert response.headers["content-type"] == "application/problem+json"
        assert "JSON" not in response.json()["detail"]
    assert (await client.get("/v1/bots/cricket")).headers["etag"] == tag
