"""TorchServe's own keys, where it asks for them: read from the file that it writes, sent, and read again when refused.

With tokens on, TorchServe makes new keys at each start, and one more when it is asked to; the old one is worthless at
once. The file (`key_file.json` in its working directory) is the only place where they stand.
"""

import json
import logging
from collections.abc import Generator
from http import HTTPStatus
from pathlib import Path
from typing import Literal

import httpx

Purpose = Literal["inference", "management"]

logger = logging.getLogger(__name__)


class TorchServeKey(httpx.Auth):
    """Signs requests to one of TorchServe's two interfaces. Without a file, or a key in it, it sends none."""

    def __init__(self, key_file: Path, purpose: Purpose) -> None:
        self._file, self._purpose = key_file, purpose
        self._key: str | None = None

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Send `request` with the key; once more when it is refused and the file holds another by now.

        TorchServe says 400 where others say 401, and so does the handler of a body that it cannot read: what decides
        is whether there is a new key. TorchServe looks at the key before it looks at anything else.
        """
        sent = self._key = self._key or self._read()
        _sign(request, sent)
        response = yield request
        if response.status_code == HTTPStatus.BAD_REQUEST:
            self._key = self._read()
            if self._key not in (None, sent):
                _sign(request, self._key)
                yield request

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
        request.headers["Authorization"] = f"Bearer {key}"  # TorchServe knows the scheme in this spelling alone
