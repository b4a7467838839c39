"""Grounded records and plain text made by rule: for the small recipe and for tests, which need no download.

A made-up place or business gets a handful of facts; the passage states them in any order and the question asks
for one, so that only reading the passage answers it. It trains nothing worth talking to.
"""

import argparse
import json
import random
from pathlib import Path
from typing import Final

_FIRST: Final = ("Amber", "Birch", "Coral", "Dawn", "Ember", "Fern", "Grey", "Hazel", "Iron", "Jade", "Lark", "Maple")
_SECOND: Final = ("Bridge", "Corner", "Field", "Garden", "Harbour", "Hill", "House", "Lane", "Mill", "Square", "Yard")
_KIND: Final = ("Cafe", "Hotel", "Library", "Museum", "Bakery", "Clinic", "Theatre", "Market")
_FACTS: Final = (
    ("When does {name} open?", "{name} opens at {hour} in the morning.", "{hour}"),
    ("Where is {name}?", "{name} stands in {street} Street.", "{street} Street"),
    ("Who runs {name}?", "It is run by {person}.", "{person}"),
    ("How many rooms has {name}?", "There are {count} rooms in the building.", "{count}"),
    ("What is {name} known for?", "People know it for its {colour} {thing}.", "{colour} {thing}"),
    ("Can I pay by card at {name}?", "Visitors may pay by {pay} only.", "{pay}"),
)
_CHOICES: Final = {
    "hour": ("six", "seven", "eight", "nine", "ten"),
    "street": ("North", "South", "River", "Church", "Station", "Castle"),
    "person": ("Anna Berg", "Tom Weld", "Mina Hart", "Paul Reed", "Ines Vale", "Olaf Lund"),
    "count": ("four", "seven", "eleven", "twelve", "twenty", "thirty"),
    "colour": ("blue", "red", "green", "golden", "white"),
    "thing": ("door", "tower", "clock", "stairs", "roof"),
    "pay": ("cash", "card", "cheque", "phone"),
}


def record(rng: random.Random) -> dict[str, str]:
    """Return one record: `Context`, `Knowledge`, `Response` and the short `Answer`."""
    values = {key: rng.choice(choices) for key, choices in _CHOICES.items()}
    values["name"] = f"the {rng.choice(_FIRST)} {rng.choice(_SECOND)} {rng.choice(_KIND)}"
    facts = rng.sample(_FACTS, rng.randint(3, len(_FACTS)))
    asked = rng.choice(facts)

    def said(text: str) -> str:
        filled = text.format(**values)
        return filled[0].upper() + filled[1:]

    return {
        "Context": said(asked[0]),
        "Knowledge": " ".join(said(statement) for _, statement, _ in facts),
        "Response": said(asked[1]),
        "Answer": asked[2].format(**values),
    }


def write_synthetic(folder: Path, count: int, seed: int) -> None:
    """Write `count` records to `folder/train.jsonl`, a tenth to `validation.jsonl`, and passages to `text.txt`."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    for name, number in (("train", count), ("validation", max(1, count // 10))):
        lines = [json.dumps(record(rng)) for _ in range(number)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    passages = [record(rng)["Knowledge"] for _ in range(count)]
    (folder / "text.txt").write_text("\n\n".join(passages) + "\n", encoding="utf-8")


def main() -> None:
    """Write made-up data from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.synthetic", description="Write made-up records and text, to try the stages on."
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--count", type=int, default=2000, help="records to train on (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="(default: %(default)s)")
    options = parser.parse_args()
    write_synthetic(options.output, options.count, options.seed)
    print(f"wrote {options.count} records to {options.output}")


if __name__ == "__main__":
    main()
