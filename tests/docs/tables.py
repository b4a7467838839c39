"""Tables of the documents that are made of the code: `python -m tests.docs.tables` writes them anew.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; a test compares it with what the code says today.
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from annotated_types import Ge, Gt, Le, MinLen
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from gateway.access import NEEDS
from gateway.app import create_app
from gateway.errors import RETRY_AFTER_SECONDS, STATUSES, Overloaded
from gateway.problems import problem_of
from gateway.settings import Settings
from handler.contract.generation import GenerationParameters
from tests.docs.blocks import ROOT, documents

_PLACE: Final = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def settings() -> str:
    """Every setting of the gateway, from its class."""
    rows = [
        (f"`GODEL_{name.upper()}`", _default(field), _bounds(field), _sentences(field.description))
        for name, field in Settings.model_fields.items()
    ]
    return _table(("variable", "default", "bounds", "meaning"), rows)


def worker() -> str:
    """Every setting of the worker, from the comments above it in its file."""
    return _table(("setting", "as it comes", "meaning"), _commented(ROOT / "handler" / "model-config.yaml", ":"))


def torchserve() -> str:
    """Every setting of TorchServe that is made, from the comments above it in its file."""
    return _table(("setting", "as it comes", "meaning"), _commented(ROOT / "config.properties", "="))


def operations() -> str:
    """Every operation of the OpenAPI document, and what its caller's key must be for."""
    rows = []
    for path, methods in _document()["paths"].items():
        for method, operation in methods.items():
            need = NEEDS[f"{method.upper()} {path}"]
            scope = "nothing" if need is None else f"`{need.scope}`" + (", for all bots" if need.every_bot else "")
            rows.append((f"`{method.upper()} {path}`", operation["summary"], scope))
    return _table(("operation", "", "wants a key with"), rows)


def problems() -> str:
    """Every kind of problem a client can meet, with its status and when to try again."""
    rows = []
    for kind, status in STATUSES.items():
        made = kind.__new__(kind)
        Exception.__init__(made, "")
        vars(made).update(detail="", problems={}, status=status)
        name = problem_of(made, "").type
        if name.endswith(("client-gone", "misconfigured")):
            continue  # nobody is there to read the one; the other ends the start
        seconds = RETRY_AFTER_SECONDS.get(kind)
        retry = f"{seconds} s" if seconds else ""
        if name.endswith("rate-limited"):
            retry = "until the minute is over"
        elif issubclass(kind, Overloaded):
            retry = "as long as the queue takes"
        rows.append((f"`{name.rpartition(':')[2]}`", str(status), _sentences(kind.__doc__), retry))
    return _table(("`type`, after `urn:godel-serve:`", "status", "meaning", "`Retry-After`"), sorted(rows))


def parameters() -> str:
    """Every parameter of an answer, with its default and bounds."""
    shown = _document()["components"]["schemas"]["ChatInput"]["properties"]["parameters"]
    described = _parameters_schema(shown)
    defaults = GenerationParameters()
    rows = [
        (
            f"`{name}`",
            f"`{_json(getattr(defaults, name))}`",
            _schema_bounds(schema),
            _sentences(schema.get("description")),
        )
        for name, schema in described.items()
    ]
    return _table(("parameter", "default", "bounds", "meaning"), rows)


TABLES: Final[dict[str, Callable[[], str]]] = {
    made.__name__: made for made in (settings, worker, torchserve, operations, problems, parameters)
}


def with_tables(text: str) -> str:
    """Return a document with its tables as the code has them today. Raises KeyError on an unknown table."""
    return _PLACE.sub(lambda place: f"{place[1]}{TABLES[place[2]]()}{place[3]}", text)


def _document() -> dict[str, Any]:
    document: dict[str, Any] = create_app(Settings()).openapi()
    return document


def _parameters_schema(shown: dict[str, Any]) -> dict[str, Any]:
    for option in (shown, *shown.get("anyOf", ()), *shown.get("allOf", ())):
        if "properties" in option:
            return dict(option["properties"])
        if "$ref" in option:
            name = option["$ref"].rpartition("/")[2]
            return dict(_document()["components"]["schemas"][name]["properties"])
    raise KeyError("the OpenAPI document does not describe the parameters of a chat")


def _default(field: FieldInfo) -> str:
    if field.default is None or isinstance(field.default, SecretStr):
        return "none"
    return f"`{_json(field.default)}`"


def _json(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    return str(value)


def _bounds(field: FieldInfo) -> str:
    choices = getattr(field.annotation, "__args__", ())
    if choices and all(isinstance(choice, str) for choice in choices):
        return ", ".join(f"`{choice}`" for choice in choices)
    low = high = ""
    for rule in field.metadata:
        match rule:
            case Ge():
                low = f"from {rule.ge}"
            case Gt():
                low = f"above {rule.gt}"
            case Le():
                high = f"to {rule.le}"
            case MinLen():
                low = f"{rule.min_length} characters"
    return f"{low} {high}".strip()


def _schema_bounds(schema: dict[str, Any]) -> str:
    for option in (schema, *schema.get("anyOf", ())):
        low = next((f"{word} {option[key]:.16g}" for key, word in _LOW.items() if key in option), "")
        high = next((f"{word} {option[key]:.16g}" for key, word in _HIGH.items() if key in option), "")
        if low or high:
            return f"{low} {high}".strip()
    return ""


_LOW: Final = {"minimum": "from", "exclusiveMinimum": "above"}
_HIGH: Final = {"maximum": "to", "exclusiveMaximum": "below"}


def _commented(path: Path, sign: str) -> list[tuple[str, str, str]]:
    """Return a row for each group of settings: their names, their values, and the comment above them."""
    rows: list[tuple[list[str], list[str], str]] = []
    comment: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines()[1:]:
        if line.strip().startswith("#"):
            if not comment or (rows and not comment):
                comment = []
            comment.append(line.strip().lstrip("# "))
            continue
        name, found, value = (part.strip() for part in line.partition(sign))
        if not found or not value:  # an empty line, or the head of a section
            if not line.strip() and not rows:
                comment = []  # what stands at the top is about the file
            continue
        if comment or not rows:
            rows.append(([], [], " ".join(comment)))
            comment = []
        rows[-1][0].append(f"`{name}`")
        rows[-1][1].append(f"`{value.strip(chr(34))}`")
    return [("<br>".join(names), "<br>".join(values), text) for names, values, text in rows]


def _sentences(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    names = list(head)
    lines = [names, ["---"] * len(names), *map(list, rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    """Write the tables of all documents anew."""
    for path in documents():
        text = path.read_text(encoding="utf-8")
        if (made := with_tables(text)) != text:
            path.write_text(made, encoding="utf-8")
            print(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
