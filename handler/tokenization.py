"""Text to token ids and back, with the model's own `tokenizer.json`; the only handler file that knows `tokenizers`."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from handler.engines.base import EngineError


class Tokenization:
    """The tokenizer of one model."""

    def __init__(self, path: Path) -> None:
        """Read `path`. Raises EngineError when it is missing or no tokenizer."""
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise EngineError(f"{path} cannot be read as a tokenizer: {error}") from error
        # A file may carry padding or truncation left from training; a prompt is never padded or cut unseen.
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        spelled = (self._tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in range(256))
        self._byte_ids = frozenset(token for token in spelled if token is not None)
        added = self._tokenizer.get_added_tokens_decoder()
        self._unseen_ids = frozenset(number for number, token in added.items() if token.special)

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, the end token included."""
        return list(self._tokenizer.encode(text).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`, control tokens left out, no white space around it."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def without_open_bytes(self, ids: Sequence[int]) -> Sequence[int]:
        """Return `ids` up to a run of byte tokens at the end, whose text the next token may still change.

        A control token does not end the run: it is left out before bytes become characters.
        """
        end = len(ids)
        while end and (ids[end - 1] in self._byte_ids or ids[end - 1] in self._unseen_ids):
            end -= 1
        return ids[:end]
