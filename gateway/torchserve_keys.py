"""TorchServe's own keys, where it asks for them: read from the file that it writes, sent, and read again when refused.

With tokens on, TorchServe makes new keys at each start, and one more when it is asked to; the old one is worthless at
once. The file (`key_file.json` in its working directory) is the only place where they stand.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

Purpose = Literal["inference", "management"]

HEADER: Final = "Authorization"

logger = logging.getLogger(__name__)


class TorchServeKey:
    """Signs requests to one of TorchServe's two interfaces. Without a file, or a key in it, it signs nothing."""

    def __init__(self, key_file: Path, purpose: Purpose) -> None:
        self._file, self._purpose = key_file, purpose
        self._key: str | None = None

    def sign(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """Return `headers` with the key in them."""
        self._key = self._key or self._read()
        return _signed(headers, self._key)

    def renew(self, refused: Mapping[str, str]) -> Mapping[str, str] | None:
        """Return these headers, which were refused, with the key that the file holds now; None when it is the same.

        TorchServe says 400 where others say 401, and so does the handler of a body that it cannot read: what decides
        is whether there is a new key. TorchServe looks at the key before it looks at anything else.
        """
        self._key = self._read()
        if self._key is None or refused.get(HEADER) == _value(self._key):
            return None
        return _signed(refused, self._key)

    def _read(self) -> str | None:
        try:
            key = json.loads(self._file.read_text(encoding="utf-8"))[self._purpose]["key"]
        except (OSError, ValueError, LookupError, TypeError) as error:
            # Half written, or not there yet: TorchServe will refuse the request, and the file is read again.
            logger.warning("no %s key of TorchServe's in %s: %s", self._purpose, self._file, type(error).__name__)
            return None
        return key if isinstance(key, str) else None


def _signed(headers: Mapping[str, str], key: str | None) -> Mapping[str, str]:
    return headers if key is None else {**headers, HEADER: _value(key)}


def _value(key: str) -> str:
    return f"Bearer {key}"  # TorchServe knows the scheme in this spelling alone
