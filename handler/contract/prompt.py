"""THE prompt: how an instruction, a dialogue and a passage of knowledge become the text the model reads.

The layout is the one of the GODEL v1.1 model card (microsoft/GODEL, MIT):

    {instruction} [CONTEXT] {turns joined by ' EOS '} [KNOWLEDGE] {knowledge}

and, without knowledge, `{instruction} [CONTEXT] {turns}`. Training, evaluation and serving all build
it here, so they cannot drift apart. Everything a user may write is neutralised on the way in:
text that spells a separator or a control token becomes text that merely resembles it.
"""

import functools
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

FORMAT_VERSION: Final = 1
"""Version of this layout and of the wire format; written into every archive and every request."""

CONTEXT_TAG: Final = "[CONTEXT]"
KNOWLEDGE_TAG: Final = "[KNOWLEDGE]"
TURN_SEPARATOR: Final = "EOS"
"""An added token of GODEL's vocabulary; stands between turns, never after the last."""

INSTRUCTIONS: Final[dict[str, str]] = {
    "qa": (
        "Instruction: given a dialog context and related knowledge,"
        " you need to answer the question based on the knowledge."
    ),
    "grounded": (
        "Instruction: given a dialog context and related knowledge, you need to response safely based on the knowledge."
    ),
    "chitchat": "Instruction: given a dialog context, you need to response empathically.",
}
"""The published instructions, to the letter ("to response" included: the checkpoints were trained on it)."""

DEFAULT_INSTRUCTION: Final = "qa"
DEFAULT_INSTRUCTION_WITHOUT_KNOWLEDGE: Final = "chitchat"

# Control tokens of T5 and GODEL vocabularies, in any case: <pad>, </s>, <s>, <unk>, <extra_id_7>, <PAD>.
_CONTROL_TOKEN = re.compile(r"<(/?s|pad|unk|extra_id_\d+)>", re.IGNORECASE)
MAX_MARKS: Final = 30
_TAG = re.compile(r"\[(CONTEXT|KNOWLEDGE)\]", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class FittedPrompt:
    """A prompt that fits its budget, and what was left out to make it fit."""

    text: str
    tokens: int
    turns_dropped: int = 0
    knowledge_characters_dropped: int = 0
    message_characters_dropped: int = 0


def _shown(character: str) -> str:
    """Return a space for any white space, nothing for what is invisible, everything else as it is."""
    if character.isspace():
        return " "
    return "" if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn") else character


_SHOWN_ASCII: Final = {code: _shown(chr(code)) for code in range(128)}
"""Most text is ASCII, and by `translate` all of this takes a sixteenth of the time."""


# A bot's knowledge comes with every one of its messages.
@functools.lru_cache(maxsize=256)
def neutralise(text: str) -> str:
    """Return `text` as one line in which nothing can be taken for the prompt's own structure.

    Compatibility forms are folded first (NFKC) and invisible characters removed, because T5's
    tokenizer does both: a separator spelt in full-width letters or with a zero-width space inside
    would otherwise reappear after this check. Brackets of tags and control tokens become
    parentheses; `EOS`, a token even inside a word, becomes `Eos`; a published instruction, a token
    of the embedded model, begins with a small letter. Idempotent.
    """
    folded = unicodedata.normalize("NFKC", _without_piles_of_marks(text))
    visible = folded.translate(_SHOWN_ASCII) if folded.isascii() else "".join(map(_shown, folded))
    safe = _CONTROL_TOKEN.sub(r"(\1)", visible)
    safe = _TAG.sub(r"(\1)", safe)
    safe = safe.replace(TURN_SEPARATOR, TURN_SEPARATOR.capitalize())
    for instruction in INSTRUCTIONS.values():
        safe = safe.replace(instruction, instruction[0].lower() + instruction[1:])
    # Removing what stood between two marks can bring them together as one composed character.
    settled = unicodedata.normalize("NFKC", " ".join(safe.split()))
    return settled if settled == text else neutralise(settled)


def _without_piles_of_marks(text: str) -> str:
    """Return `text` with no more than `MAX_MARKS` combining marks in a row.

    Normalisation sorts each row of marks in quadratic time: 70 kB of nothing but accents would stop the
    process for seconds. No language comes near the limit, which is that of Unicode's stream-safe format.
    """
    if text.isascii():
        return text
    kept, marks = [], 0
    for character in text:
        marks = marks + 1 if unicodedata.combining(character) else 0
        if marks <= MAX_MARKS:
            kept.append(character)
    return "".join(kept)


def instruction_text(instruction: str | None, *, has_knowledge: bool) -> str:
    """Return the text of a named instruction, of the default when None, or the bot's own text."""
    if instruction is None:
        instruction = DEFAULT_INSTRUCTION if has_knowledge else DEFAULT_INSTRUCTION_WITHOUT_KNOWLEDGE
    if instruction in INSTRUCTIONS.values():
        return instruction
    return INSTRUCTIONS.get(instruction) or neutralise(instruction)


def render(turns: Sequence[str], knowledge: str = "", instruction: str | None = None) -> str:
    """Return the prompt for `turns` (oldest first, the newest user turn last), nothing left out.

    Raises ValueError when there is no turn to answer.
    """
    if not turns:
        raise ValueError("a prompt needs at least one turn")
    safe_knowledge = neutralise(knowledge)
    return _layout(
        instruction_text(instruction, has_knowledge=bool(safe_knowledge)),
        [neutralise(turn) for turn in turns],
        safe_knowledge,
    )


def fit(
    turns: Sequence[str],
    knowledge: str = "",
    instruction: str | None = None,
    *,
    budget: int,
    count_tokens: Callable[[str], int],
) -> FittedPrompt:
    """Return the prompt cut to at most `budget` tokens as `count_tokens` counts them.

    What goes first: the oldest turns, whole; then the end of the knowledge, at a sentence or word;
    only then the start of the newest turn. The instruction and the tags always stay.
    Raises ValueError when there is no turn, or when the budget cannot hold even the instruction.
    """
    if not turns:
        raise ValueError("a prompt needs at least one turn")
    safe_turns = [neutralise(turn) for turn in turns]
    safe_knowledge = neutralise(knowledge)
    header = instruction_text(instruction, has_knowledge=bool(safe_knowledge))
    text = _layout(header, safe_turns, safe_knowledge)
    tokens = count_tokens(text)
    if tokens <= budget:
        return FittedPrompt(text, tokens)
    counted = {text: tokens}  # what fits in the end is asked for again and again on the way there

    def count(prompt: str) -> int:
        if prompt not in counted:
            counted[prompt] = count_tokens(prompt)
        return counted[prompt]

    def fits(kept_turns: Sequence[str], kept_knowledge: str) -> bool:
        return count(_layout(header, kept_turns, kept_knowledge)) <= budget

    dropped = _least(len(safe_turns) - 1, lambda n: fits(safe_turns[n:], safe_knowledge))
    kept_turns, kept_knowledge = safe_turns[dropped:], safe_knowledge
    if not fits(kept_turns, kept_knowledge):
        cut = _least(len(safe_knowledge), lambda n: fits(kept_turns, safe_knowledge[: len(safe_knowledge) - n]))
        kept_knowledge = _at_boundary(safe_knowledge, len(safe_knowledge) - cut)
    if not fits(kept_turns, kept_knowledge):
        newest = kept_turns[-1]
        cut = _least(len(newest), lambda n: fits([newest[n:].lstrip()], kept_knowledge))
        kept_turns = [newest[cut:].lstrip()]
    if (not kept_turns[-1] and safe_turns[-1]) or not fits(kept_turns, kept_knowledge):
        raise ValueError(f"a budget of {budget} tokens cannot hold the instruction and a message")
    text = _layout(header, kept_turns, kept_knowledge)
    return FittedPrompt(
        text=text,
        tokens=count(text),
        turns_dropped=dropped,
        knowledge_characters_dropped=len(safe_knowledge) - len(kept_knowledge),
        message_characters_dropped=len(safe_turns[-1]) - len(kept_turns[-1]),
    )


def _layout(header: str, turns: Sequence[str], knowledge: str) -> str:
    prompt = f"{header} {CONTEXT_TAG} {f' {TURN_SEPARATOR} '.join(turns)}"
    return f"{prompt} {KNOWLEDGE_TAG} {knowledge}" if knowledge else prompt


def _least(highest: int, holds: Callable[[int], bool]) -> int:
    """Return the least n in 0..highest for which `holds(n)`, or `highest` when none does.

    Bisection: `holds` is taken to stay true once true. A tokenizer bends that by a token or two
    at a cut, which is why callers check the result instead of trusting it.
    """
    if holds(0):
        return 0
    low, high = 0, highest
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle
    return high


def _at_boundary(text: str, end: int) -> str:
    """Return `text[:end]` taken back to the end of a sentence, or failing that of a word."""
    if end >= len(text):
        return text
    head = text[:end]
    sentence = max(head.rfind(mark) for mark in (". ", "! ", "? "))
    if sentence > end // 2:
        return head[: sentence + 1]
    word = head.rfind(" ")
    return head[:word] if word > end // 2 else head.rstrip()
