"""Whether a process still answers: one that hangs lives, so its end cannot be waited for."""

import threading
import time
import urllib.error
from typing import Final

from launcher.local_http import ask

PERIOD_SECONDS: Final = 1.0
ANSWER_SECONDS: Final = 4.0
"""How long one answer is waited for; under full load the gateway takes 50 ms for it, TorchServe 120."""


class Pulse:
    """Asks `url` again and again in a thread of its own, until `stop`. Any answer is a sign of life, an error too."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stop = threading.Event()
        self._silence = 0.0
        threading.Thread(target=self._ask, daemon=True).start()

    @property
    def silent_seconds(self) -> float:
        """How long it has been asked in vain. Time in which we were suspended ourselves does not count."""
        return self._silence

    def stop(self) -> None:
        """Ask no more."""
        self._stop.set()

    def _ask(self) -> None:
        while not self._stop.wait(PERIOD_SECONDS):
            start = time.monotonic()
            try:
                with ask(self._url, seconds=ANSWER_SECONDS):
                    pass
            except urllib.error.HTTPError as error:
                error.close()
            except (OSError, ValueError):
                self._silence += PERIOD_SECONDS + min(time.monotonic() - start, ANSWER_SECONDS)
                continue
            self._silence = 0.0
