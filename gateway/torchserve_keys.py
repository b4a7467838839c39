"""TorchServe's own keys, where it asks for them: read from the file that it writes, sent, and read again when refused.

With tokens on, TorchServe makes new keys at each start, and one more when it is asked to; the old one is worthless at
once. The file (`key_file.json` in its working directory) is the only place where they stand.
"""

import json
import logging
from pathlib import Path
from typing import Final, Literal

import httpx

Purpose = Literal["inference", "management"]

HEADER: Final = "Authorization"

logger = logging.getLogger(__name__)


class TorchServeKey:
    """Signs requests to one of TorchServe's two interfaces. Without a file, or a key in it, it signs nothing."""

    def __init__(self, key_file: Path, purpose: Purpose) -> None:
        self._file, self._purpose = key_file, purpose
        self._key: str | None = None

    def sign(self, request: httpx.Request) -> None:
        """Put the key into the headers of `request`."""
        self._key = self._key or self._read()
        _sign(request, self._key)

    def renew(self, request: httpx.Request) -> bool:
        """Return whether the file holds another key than that of `request`, which was refused; put it there.

        TorchServe says 400 where others say 401, and so does the handler of a body that it cannot read: what decides
        is whether there is a new key. TorchServe looks at the key before it looks at anything else.
        """
        self._key = self._read()
        if self._key is None or request.headers.get(HEADER) == _value(self._key):
            return False
        _sign(request, self._key)
        return True

    def _read(self) -> str | None:
        try:
            key = json.loads(self._file.read_text(encoding="utf-8"))[self._purpose]["key"]
        except (OSError, ValueError, LookupError, TypeError) as error:
            # Half written, or not there yet: TorchServe will refuse the request, and the file is read again.
            logger.warning("no %s key of TorchServe's in %s: %s", self._purpose, self._file, type(error).__name__)
            return None
        return key if isinstance(key, str) else None


def _sign(request: httpx.Request, key: str | None) -> None:
    if key is not None:
        request.headers[HEADER] = _value(key)


def _value(key: str) -> str:
    return f"Bearer {key}"  # TorchServe knows the scheme in this spelling alone
