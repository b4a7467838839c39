"""Uploaded documents become text: kept libraries read them, in a process that may use only so much.

A file is what its content says it is; the announced type decides only between kinds of plain text.
"""

import asyncio
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Final, Literal

from gateway.errors import DocumentUnreadable, InvalidInput, UnsupportedDocument

Kind = Literal["pdf", "html", "markdown", "text"]

SUFFIXES: Final[dict[str, Kind]] = {
    ".pdf": "pdf",
    ".html": "html",
    ".htm": "html",
    ".md": "markdown",
    ".markdown": "markdown",
    ".txt": "text",
}
MEDIA_TYPES: Final[dict[str, Kind]] = {
    "application/pdf": "pdf",
    "text/html": "html",
    "application/xhtml+xml": "html",
    "text/markdown": "markdown",
    "text/plain": "text",
}

SECONDS: Final = 30.0
"""How long reading may take, in processor time and by the clock."""

MEMORY_BYTES: Final = 1 << 30
"""How much memory reading may take: a page of a PDF can unpack to any size."""


ENVIRONMENT: Final = ("PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LANG", "LC_ALL")
"""What the process that reads is told of ours: where Python and its libraries are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A file as it was uploaded."""

    content: bytes
    media_type: str = ""
    """As the client announced it, without parameters; empty when it did not."""
    name: str = ""

    @property
    def kind(self) -> Kind:
        """What it is. Raises UnsupportedDocument when it is, or says to be, nothing that can be read."""
        suffix = self.name[self.name.rfind(".") :].lower() if "." in self.name else ""
        announced = MEDIA_TYPES.get(self.media_type) or SUFFIXES.get(suffix)
        start = self.content[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
        if start.startswith(b"%pdf-"):
            return "pdf"
        if announced == "pdf" or (announced is None and self.media_type not in ("", "application/octet-stream")):
            raise UnsupportedDocument("this is no document that can be read: send .txt, .md, .html or .pdf")
        if announced is None and suffix:
            raise UnsupportedDocument(f"a {suffix[:16]} file cannot be read: send .txt, .md, .html or .pdf")
        if start.startswith((b"<!doctype html", b"<html")):
            return "html"
        if b"\0" in self.content[:4096] and not self.content.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise UnsupportedDocument("this is no text: send .txt, .md, .html or .pdf")
        return announced or "text"


async def text_of(document: Document, max_characters: int = 50_000_000) -> str:
    """Return the text of `document`, which may have `max_characters` of it.

    Raises UnsupportedDocument or DocumentUnreadable, saying why, and InvalidInput when the text is longer.
    """
    limits = [str(int(SECONDS)), str(MEMORY_BYTES), str(max_characters)]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway.extraction", document.kind, *limits),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # What it reads may come from an enemy: our keys and addresses are none of its business.
        env={name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
    )
    try:
        async with asyncio.timeout(SECONDS):
            text, _ = await process.communicate(document.content)
    except TimeoutError:
        raise DocumentUnreadable(f"the document could not be read within {SECONDS:.0f} seconds") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    match process.returncode:
        case 0:
            pass
        case 6:
            problem = f"has {text.decode()} characters, more than {max_characters}"
            raise InvalidInput.of({"knowledge": problem})
        case 3:
            raise DocumentUnreadable("the document is encrypted; send it without a password")
        case 4:
            raise DocumentUnreadable("the document is damaged: it cannot be read as what it is")
        case _:  # killed, out of memory or out of time
            raise DocumentUnreadable("the document takes more time or memory to read than it may")
    if not text.strip():
        raise DocumentUnreadable("there is no text in the document; a scan holds pictures of text only")
    return text.decode()
