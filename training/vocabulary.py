"""Makes a tokenizer smaller: the tokens that a text uses most, and those that they are made from."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer


class VocabularyError(ValueError):
    """A tokenizer cannot be trimmed; the message says why."""


@dataclass(frozen=True, slots=True)
class Trimmed:
    """A smaller tokenizer; `old_ids` has, for each of its ids, the id the token had before."""

    tokenizer: Tokenizer
    old_ids: list[int]


def trim(tokenizer: Tokenizer, texts: Iterable[str], size: int) -> Trimmed:
    """Return `tokenizer` with at most `size` tokens, chosen by how often `texts` need them.

    Special tokens, bytes and single characters always stay, so no text becomes unknown that was not. Ids keep
    their order. Handles byte-pair encoding and unigram models. Raises VocabularyError for other kinds, and
    when what always stays is more than `size`.
    """
    table: dict[str, Any] = json.loads(tokenizer.to_str())
    model = table["model"]
    if model["type"] not in ("BPE", "Unigram"):
        raise VocabularyError(f"a {model['type']} tokenizer cannot be trimmed; BPE and Unigram ones can")
    names = {index: token for token, index in tokenizer.get_vocab(with_added_tokens=True).items()}
    special = {token["id"] for token in table["added_tokens"]}
    always = special | {
        index
        for index, name in names.items()
        if len(name) == 1 or name.startswith("<0x") or index == model.get("unk_id")
    }
    if unknown := model.get("unk_token"):
        always.add(tokenizer.token_to_id(unknown))
    if len(always) > size:
        raise VocabularyError(f"{len(always)} tokens always stay: special tokens, bytes, characters; {size} is too few")
    counts = Counter(index for text in texts for index in tokenizer.encode(text).ids)
    if model["type"] == "BPE":
        _count_parts(counts, tokenizer, model["merges"])
    often = sorted(names.keys() - always, key=lambda index: (-counts[index], index))
    kept = sorted(always | set(often[: size - len(always)]))
    new_ids = {old: new for new, old in enumerate(kept)}

    if model["type"] == "BPE":
        model["vocab"] = {token: new_ids[index] for token, index in model["vocab"].items() if index in new_ids}
        model["merges"] = [pair for pair in model["merges"] if all(p in model["vocab"] for p in (*pair, "".join(pair)))]
    else:
        model["vocab"] = [piece for index, piece in enumerate(model["vocab"]) if index in new_ids]
        if model.get("unk_id") is not None:
            model["unk_id"] = new_ids[model["unk_id"]]
    for token in table["added_tokens"]:
        token["id"] = new_ids[token["id"]]
    for token in ((table.get("post_processor") or {}).get("special_tokens") or {}).values():
        token["ids"] = [new_ids[index] for index in token["ids"]]
    return Trimmed(Tokenizer.from_str(json.dumps(table)), kept)


def _count_parts(counts: Counter[int], tokenizer: Tokenizer, merges: list[list[str]]) -> None:
    """Count a token also for the two it is merged from: they are needed as often, so they stay when it does."""
    ids = tokenizer.get_vocab()
    for left, right in reversed(merges):
        for part in (left, right):
            counts[ids[part]] += counts[ids[left + right]]
