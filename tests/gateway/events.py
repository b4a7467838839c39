"""Server-sent events as a client reads them."""

from typing import NamedTuple


class Event(NamedTuple):
    """One event; `name` is empty where none was sent."""

    name: str
    data: str


def parse(body: str) -> list[Event]:
    """Return the events of a whole stream, comments left out."""
    assert body.endswith("\n\n")
    events = []
    for block in body.removesuffix("\n\n").split("\n\n"):
        fields = [line.split(": ", 1) for line in block.split("\n") if not line.startswith(":")]
        if fields:
            names = [value for field, value in fields if field == "event"]
            data = "\n".join(value for field, value in fields if field == "data")
            events.append(Event(names[0] if names else "", data))
    return events
