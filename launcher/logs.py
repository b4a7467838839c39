"""What TorchServe's logs say: why a model did not load, and what a person should see while it serves."""

import re
from pathlib import Path
from typing import Final

TORCHSERVE: Final = "torchserve.log"
WORKER: Final = "worker.log"
CONSOLE: Final = "console.log"

# TorchServe's own ways to say that a model will not be served: its worker died (the first line is sometimes left
# out, the second comes when the next worker has died too), or its archive cannot be used.
_FAILED_LOAD: Final = re.compile(r"Load model failed|Auto recovery failed again|Failed to load model")
_RECORD: Final = re.compile(r"^\d{4}-\d\d-\d\dT\S+ (WARN|ERROR|FATAL)\s+(.*)")
_CAUSED_ANOTHER: Final = "direct cause of the following exception"


class Logs:
    """The log files in a folder, which `handler/log4j2.xml` describes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shown = 0

    def clear(self) -> None:
        """Set aside what an earlier run left, as `*.log.old`: what is read after a failure must be this run's."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for log in self._folder.glob("*.log"):
            log.replace(log.with_name(f"{log.name}.old"))
        self._shown = 0

    def says_load_failed(self) -> bool:
        """Whether TorchServe has given up a try to load the model. It tries again, with no more luck."""
        return any(_FAILED_LOAD.search(line) for line in self._lines(TORCHSERVE))

    def load_error(self) -> str | None:
        """Return the exception that ended the first try to load, None while no whole traceback is there.

        Of exceptions raised one from another it is the last, which was written for people; of those that came
        up while another was handled it is the first, for TorchServe's loader guesses on after a failed import.
        """
        # Without time and thread, a traceback's frames are indented and its exception is not.
        lines = [line.split(" - ", 1)[-1] for line in self._lines(WORKER)]
        found = None
        in_traceback = False
        for line in lines:
            if line.startswith("Traceback (most recent call last)"):
                in_traceback = True
            elif in_traceback:
                if line and not line.startswith(" "):
                    found, in_traceback = line, False
            elif found and line.strip() and _CAUSED_ANOTHER not in line:
                break
        return found

    def last_error(self) -> str | None:
        """Return the last line that reports an error, wherever it was written."""
        for name in (TORCHSERVE, CONSOLE):
            lines = [line for line in self._lines(name) if "ERROR" in line or "Exception" in line]
            if lines:
                return lines[-1]
        return None

    def last_words(self) -> str | None:
        """Return the console's last line: of a setting that it cannot read Java tells there, and calls it no error."""
        said = [line for line in self._lines(CONSOLE) if line.strip()]
        return said[-1] if said else None

    def new_warnings(self) -> list[str]:
        """Return TorchServe's warnings and errors since the last call, without their stacks."""
        path = self._folder / TORCHSERVE
        if not path.is_file():
            return []
        if path.stat().st_size < self._shown:
            self._shown = 0  # the file was rolled over
        with path.open("rb") as file:
            file.seek(self._shown)
            fresh, newline, _ = file.read().rpartition(b"\n")  # the last line may still be half written
        self._shown += len(fresh) + len(newline)
        records = (_RECORD.match(line) for line in fresh.decode(errors="replace").splitlines())
        return [f"{record[1]}: {record[2]}" for record in records if record]

    def _lines(self, name: str) -> list[str]:
        path = self._folder / name
        return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
