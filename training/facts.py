"""Made-up facts about places, products, people and the like, as the owner of a bot would list them, and questions.

A question has few words in common with the sentence that answers it ("How expensive is the entry?", "You pay 8 euros
to get in."), which records made from encyclopaedias hardly train. What is said and asked stands in
`material/facts.yaml` and `material/subjects/`; a passage of it is drawn anew each time.
"""

import random
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from handler.contract.prompt import neutralise, render
from training.data import Pair
from training.grounded import REFUSALS

_MATERIAL: Final = Path(__file__).parent / "material"
_OPENINGS: Final = ("Hi, ", "Hello, ", "Hello! ", "Hi! ", "Please tell me: ", "Excuse me, ", "One question: ", "And ")
_INSTRUCTIONS: Final = ("qa", "qa", "grounded")


class FactSource:
    """Draws a question about a subject and the passage that answers it, or does not."""

    def __init__(self, *, words: int, unanswerable: float = 0.08, talk: float = 0.06, dialogue: float = 0.2) -> None:
        """A passage has `words` words at most. The others are shares of the draws, 0 to 1.

        `unanswerable` asks for a fact that is not told, half of the time one that has nothing to do with the subject,
        `talk` greets or thanks instead of asking, half of the time a bot that knows nothing, `dialogue` has other
        questions, answered, before the one to answer.
        """
        self._words, self._unanswerable, self._talk, self._dialogue = words, unanswerable, talk, dialogue

    def __call__(self, rng: random.Random) -> Pair:
        """Draw one pair."""
        subject = _Subject(rng)
        told = subject.passage(rng, rng.randint(min(25, self._words), self._words))
        knowledge = " ".join(told.values())
        kind = rng.random()
        if kind < self._talk:
            return _talk(knowledge if rng.random() < 0.5 else "", rng)
        turns: list[str] = []
        if rng.random() < self._dialogue:
            for fact in rng.sample([*told], min(len(told), rng.randint(1, 2))):
                turns += [subject.question(fact, rng), told[fact]]
        if kind < self._talk + self._unanswerable:
            untold = [fact for fact in subject.facts if fact not in told]
            if untold and rng.random() < 0.5:
                turns.append(subject.question(rng.choice(untold), rng))
            else:
                turns.append(_as_typed(rng.choice(material()["elsewhere"]), rng))
            return Pair(render(turns, knowledge, rng.choice(_INSTRUCTIONS)), rng.choice(REFUSALS), "")
        fact = rng.choice([*told])
        turns.append(subject.question(fact, rng))
        return Pair(render(turns, knowledge, rng.choice(_INSTRUCTIONS)), neutralise(told[fact]))


def _talk(knowledge: str, rng: random.Random) -> Pair:
    talk = rng.choice(material()["talk"])
    turn = _as_typed(rng.choice(talk["ask"]), rng)
    prompt = render([turn], knowledge, rng.choice(_INSTRUCTIONS) if knowledge else None)
    return Pair(prompt, rng.choice(talk["say"]), "" if knowledge else None)


class _Subject:
    """One place, product, person or other subject, and what it is called."""

    def __init__(self, rng: random.Random) -> None:
        subject = rng.choice([*material()["subjects"].values()])
        self.facts: Mapping[str, Mapping[str, Sequence[str]]] = subject["facts"]
        kind = rng.choice(subject.get("kind", [""]))
        self._words = {**material()["words"], **subject.get("words", {})}
        self._names = [
            self._filled(rng.choice(subject["names"]), rng, first=rng.choice(subject.get("first", [""])), kind=kind),
            rng.choice(subject.get("called", [f"the {kind.lower()}"])),
        ]
        if pronoun := subject.get("pronoun", "it"):
            self._names.append(pronoun)

    def passage(self, rng: random.Random, words: int) -> dict[str, str]:
        """Return statements of facts in the order told, up to so many words, one at least."""
        told: dict[str, str] = {}
        for fact in rng.sample([*self.facts], len(self.facts)):
            name = self._names[0] if not told else rng.choice(self._names)
            said = _capital(self._filled(rng.choice(self.facts[fact]["say"]), rng, S=name, s=name))
            words -= len(said.split())
            if told and words < 0:
                break
            told[fact] = said
        return told

    def question(self, fact: str, rng: random.Random) -> str:
        """Return a question for the fact as somebody may type it."""
        asked = rng.choice(self.facts[fact]["ask"])
        return _as_typed(_capital(self._filled(asked, rng, q=rng.choice(self._names))), rng)

    def _filled(self, template: str, rng: random.Random, **names: str) -> str:
        words = {name: rng.choice(choices) for name, choices in self._words.items()}
        return template.format(**words, **names)


def _as_typed(question: str, rng: random.Random) -> str:
    """Return the question with an opening, in small letters or without its mark, now and then."""
    if rng.random() < 0.1:
        question = rng.choice(_OPENINGS) + question[0].lower() + question[1:]
    if rng.random() < 0.15:
        question = question.lower()
    return question.rstrip("?.! ") if rng.random() < 0.15 else question


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


@cache
def material() -> Any:
    """Return what is said and asked: what `material/facts.yaml` has, and the `subjects` of all files beside it."""
    subjects: dict[str, Any] = {}
    for file in sorted((_MATERIAL / "subjects").glob("*.yaml")):
        subjects |= _read(file)["subjects"]
    return _read(_MATERIAL / "facts.yaml") | {"subjects": subjects}


def _read(file: Path) -> Any:
    return yaml.safe_load(file.read_text(encoding="utf-8"))
