"""Tables of settings, operations, errors and parameters are those of the code."""

import re
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, documents
from tests.docs.tables import TABLES, with_tables


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_tables_of_a_document_are_what_the_code_says(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text == with_tables(text), "write the tables anew: python -m tests.docs.tables"


def test_every_table_is_in_a_document() -> None:
    written = "".join(path.read_text(encoding="utf-8") for path in documents())
    assert [name for name in TABLES if f"<!-- table: {name} -->" not in written] == []


def test_a_table_that_nobody_makes_is_an_error() -> None:
    with pytest.raises(KeyError, match="weather"):
        with_tables("<!-- table: weather -->\n<!-- end -->")


def test_every_document_is_in_the_index_and_links_lead_somewhere() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    missing = [
        path.name
        for path in documents()
        if path.parent == ROOT / "docs" and path.name != "README.md"
        if f"({path.name})" not in index
    ]
    assert missing == [], "docs/README.md lists every document"
    dead = [
        f"{path.relative_to(ROOT)}: {target}"
        for path in documents()
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
        if "://" not in target and not (path.parent / target).exists()
    ]
    assert dead == []
