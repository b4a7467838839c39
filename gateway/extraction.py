"""`python -m gateway.extraction KIND SECONDS BYTES CHARACTERS`: the document on its input becomes text on its output.

A process of its own, because a hostile document can take any time and memory, and might turn a reader against us: it
writes no file, starts no process and knows no secret. Exit statuses: 3 encrypted, 4 damaged, 6 longer than CHARACTERS
(the output then says how long), anything else but 0: the limits.
"""

import io
import re
import resource
import sys

ENCRYPTED, DAMAGED, TOO_MUCH, TOO_LONG = 3, 4, 5, 6


def main() -> int:
    """Read, extract, write; return the exit status."""
    kind, (seconds, memory, longest) = sys.argv[1], map(int, sys.argv[2:5])
    limits = {
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_NPROC: 0,  # no process or thread more (root is exempt)
    }
    for limit, most in limits.items():
        resource.setrlimit(limit, (most, most))
    content = sys.stdin.buffer.read()
    try:
        text = {"pdf": _pdf, "html": _html_file, "markdown": _markdown, "text": _decoded}[kind](content)
    except MemoryError:
        return TOO_MUCH
    except PermissionError:
        return ENCRYPTED
    except Exception:  # whatever a reader makes of a damaged file
        return DAMAGED
    text = _tidy(text)
    if len(text) > longest:
        sys.stdout.write(str(len(text)))
        return TOO_LONG
    sys.stdout.buffer.write(text.encode("utf-8", "replace"))
    return 0


def _pdf(content: bytes) -> str:
    from pypdf import PdfReader

    reader = PdfReader(io.BytesIO(content))
    if reader.is_encrypted and not reader.decrypt(""):
        raise PermissionError
    pages = [page.extract_text() for page in reader.pages]
    # A line that ends without a mark goes on in the next; a word cut by a hyphen is one word again.
    joined = re.sub(r"(?<=\w)-\n(?=[a-zà-ÿ])", "", "\n\n".join(pages))
    return re.sub(r"(?<![.!?:\n])\n(?=[^\s\d•*-])", " ", joined)


def _html_file(content: bytes) -> str:
    declared = re.search(rb"<meta[^>]+charset=[\"']?([\w-]+)", content[:2048], re.IGNORECASE)
    return _html(_decoded(content, declared.group(1).decode() if declared else None))


def _html(markup: str) -> str:
    from selectolax.lexbor import LexborHTMLParser

    tree = LexborHTMLParser(markup)
    tree.strip_tags(["script", "style", "noscript", "template", "nav", "svg", "head"])
    blocks = "p,div,li,tr,h1,h2,h3,h4,h5,h6,blockquote,pre,section,article,table,ul,ol,dt,dd,br,hr"
    for node in tree.css(blocks):
        node.insert_before("\n" if node.tag in ("li", "tr", "br", "dt", "dd") else "\n\n")
        node.insert_after("\n")
    return tree.body.text() if tree.body else ""


def _markdown(content: bytes) -> str:
    from markdown_it import MarkdownIt

    return _html(MarkdownIt().enable("table").render(_decoded(content)))


def _decoded(content: bytes, encoding: str | None = None) -> str:
    for name in (encoding, "utf-8-sig"):
        try:
            if name:
                return content.decode(name)
        except (UnicodeDecodeError, LookupError):
            continue
    from charset_normalizer import from_bytes

    best = from_bytes(content).best()
    if best is None:
        raise ValueError("no encoding fits")
    return str(best)


def _tidy(text: str) -> str:
    """Return `text` without trailing and repeated blanks, at most one empty line in a row, and no NUL."""
    lines = [re.sub(r"[^\S\n]+", " ", line).strip() for line in text.replace("\0", "").splitlines()]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


if __name__ == "__main__":
    sys.exit(main())
