"""Text that goes out while it is made: what is certain of an unfinished answer, as lines of the contract."""

from collections.abc import Sequence

from handler.contract.wire import GenerateReply, encode_part
from handler.tokenization import Tokenization


class TextStream:
    """The parts of one answer. Joined they are exactly the text of the whole; none is ever taken back."""

    def __init__(self, tokenization: Tokenization) -> None:
        self._tokenization = tokenization
        self._certain = ""
        self._lines: list[bytes] = []
        self._taken = False

    @property
    def begun(self) -> bool:
        """Whether the first part has gone out: until then somebody looks at an empty screen."""
        return self._taken

    @property
    def waiting(self) -> bool:
        """Whether a part waits to go out."""
        return bool(self._lines)

    def advance(self, tokens: Sequence[int]) -> None:
        """Note what `tokens`, all that were made so far, add for certain.

        Bytes of a character spelled in bytes may still turn out to be no text, so they wait for the token after
        them; white space waits too, since none is left at the end of an answer.
        """
        self._extend(self._tokenization.decode(self._tokenization.without_open_bytes(tokens)))

    def take(self) -> bytes:
        """Return the lines not yet taken, each with one part."""
        lines, self._lines = b"".join(self._lines), []
        self._taken = self._taken or bool(lines)
        return lines

    def finish(self, reply: GenerateReply) -> bytes:
        """Return the last lines: what is left of the text, and `reply`."""
        self._extend(reply.text)
        return self.take() + reply.encode() + b"\n"

    def _extend(self, text: str) -> None:
        if part := text[len(self._certain) :]:
            self._lines.append(encode_part(part))
            self._certain = text
