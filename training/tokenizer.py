"""The embedded model's own tokenizer: byte-pair encoding with byte fall-back, one `tokenizer.json`.

`tokenizers.Tokenizer.from_file` alone loads it. Text is NFKC-normalised and its white space collapsed, as
T5's is; a character outside the alphabet becomes its UTF-8 bytes, so nothing is ever unknown. The end
token is appended to every encoded text.
"""

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from handler.contract.prompt import CONTEXT_TAG, INSTRUCTIONS, KNOWLEDGE_TAG, TURN_SEPARATOR
from training.data import read_records
from training.text import read_documents

PAD: Final = "<pad>"
END: Final = "</s>"
UNKNOWN: Final = "<unk>"
SENTINELS: Final = tuple(f"<extra_id_{number}>" for number in range(32))
"""Stand for the spans that span corruption takes out."""

CONTROL_TOKENS: Final = (
    PAD,
    END,
    UNKNOWN,
    TURN_SEPARATOR,
    "<PAD>",
    CONTEXT_TAG,
    KNOWLEDGE_TAG,
    *INSTRUCTIONS.values(),
    *SENTINELS,
)
"""Single tokens, ids 0, 1, 2, ... in this order.

A published instruction is one token: it heads every prompt unchanged, and in letters it would be a third
of a short one.
"""

_BYTES: Final = tuple(f"<0x{value:02X}>" for value in range(256))
# A word with the space before it, up to two digits, or one other character. An English word's ending is a piece of
# its own, so that "opens" and "opening" share a token with "open": a small model finds an answer by the words that
# it shares with the question.
_PIECE: Final = Regex(
    r"▁?\p{L}{3,}?(?=(?:(?<![aisu])s|ed|ing|ings)(?![\p{L}\p{M}]))"
    r"|▁?\p{L}[\p{L}\p{M}]*|▁?\p{N}{1,2}|▁?[^\p{L}\p{N}▁]|▁"
)


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Return a tokenizer of at most `vocabulary` tokens learnt from `texts`.

    Raises ValueError when `vocabulary` cannot hold the control tokens, the bytes and an alphabet.
    """
    learnt = vocabulary - len(CONTROL_TOKENS) - len(_BYTES)
    if learnt < 256:
        raise ValueError(f"a vocabulary of {vocabulary} is too small; the least is {vocabulary - learnt + 256}")
    pieces = Tokenizer(models.BPE())
    _configure(pieces)
    trainer = trainers.BpeTrainer(vocab_size=learnt, limit_alphabet=160, show_progress=False)
    pieces.train_from_iterator(texts, trainer)
    model = json.loads(pieces.to_str())["model"]
    by_rank = sorted(model["vocab"], key=model["vocab"].__getitem__)
    # A control token that is also a learnt word keeps its first id.
    order = list(dict.fromkeys((*CONTROL_TOKENS, *_BYTES, *by_rank)))
    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: index for index, token in enumerate(order)},
            merges=[tuple(merge) for merge in model["merges"]],
            byte_fallback=True,
            unk_token=UNKNOWN,
        )
    )
    _configure(tokenizer)
    # `lstrip` takes the space before a tag into the tag, where it would otherwise be a token of its own.
    tokenizer.add_special_tokens(
        [AddedToken(token, lstrip=True, normalized=False, special=True) for token in CONTROL_TOKENS]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, CONTROL_TOKENS.index(END))]
    )
    return tokenizer


def read_texts(files: Iterable[Path], most_characters: int) -> Iterator[str]:
    """Yield about `most_characters` of text from each file: a text file's documents, a JSON-lines file's fields."""
    for path in files:
        left = most_characters
        for text in _texts(path):
            yield text
            left -= len(text)
            if left <= 0:
                break


def _texts(path: Path) -> Iterator[str]:
    if path.suffix != ".jsonl":
        yield from read_documents(path)
        return
    for record in read_records(path):
        yield from (*record.turns, record.knowledge, record.response)


def _configure(tokenizer: Tokenizer) -> None:
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(prepend_scheme="always", split=False),
            pre_tokenizers.Split(_PIECE, behavior="isolated"),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always", split=False), decoders.Fuse()]
    )


def main() -> None:
    """Train a tokenizer from the command line."""
    parser = argparse.ArgumentParser(description="Train the model's own tokenizer on text and JSON-lines files.")
    parser.add_argument("files", type=Path, nargs="+", help=".txt, .txt.zst or .jsonl")
    parser.add_argument("--vocabulary", type=int, default=6144, help="most tokens (default: %(default)s)")
    parser.add_argument("--most_characters", type=int, default=20_000_000, help="read from each file at most")
    parser.add_argument("--output", type=Path, required=True, help="the tokenizer.json to write")
    arguments = parser.parse_args()
    tokenizer = train_tokenizer(read_texts(arguments.files, arguments.most_characters), arguments.vocabulary)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(arguments.output))


if __name__ == "__main__":
    main()
