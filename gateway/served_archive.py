"""What the gateway reads of the served `.mar`: the tokenizer and the metadata. Of a bare tokenizer: itself."""

import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.bots import parameter_problems
from gateway.errors import Misconfigured
from handler.contract.archive import METADATA, TOKENIZER
from handler.contract.prompt import FORMAT_VERSION


@dataclass(frozen=True, slots=True)
class ServedArchive:
    """The tokenizer, as JSON text, and what the archive says of itself."""

    tokenizer: str
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def max_prompt_tokens(self) -> int | None:
        """The most tokens the model reads, where the archive says it."""
        limit = self.metadata.get("max_prompt_tokens")
        return limit if isinstance(limit, int) and limit > 0 else None

    @property
    def parameters(self) -> dict[str, Any]:
        """The model's own defaults for its answers."""
        return dict(self.metadata.get("parameters", {}))


def read_archive(path: Path) -> ServedArchive:
    """Read a `.mar` or a `tokenizer.json`. Raises Misconfigured, naming the file and what to do about it."""
    try:
        if path.suffix != ".mar":
            return ServedArchive(path.read_text(encoding="utf-8"))
        with zipfile.ZipFile(path) as archive:
            metadata = json.loads(archive.read(METADATA)) if METADATA in archive.namelist() else {}
            tokenizer = archive.read(TOKENIZER).decode()
    except FileNotFoundError as error:
        raise Misconfigured(
            f"tokenizer: {path} is missing; make it with `make archive` or point GODEL_TOKENIZER at the served .mar"
        ) from error
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise Misconfigured(f"tokenizer: {path} is no archive with a {TOKENIZER}: {error}") from error
    if not isinstance(metadata, dict):
        raise Misconfigured(f"tokenizer: {path} has a {METADATA} that is no object")
    own = metadata.get("parameters", {})
    if not isinstance(own, dict) or parameter_problems(own):
        raise Misconfigured(f"tokenizer: {path} has parameters that nobody can mean; build it again")
    version = metadata.get("format_version", FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise Misconfigured(
            f"tokenizer: {path} has prompt format {version}, the gateway speaks {FORMAT_VERSION}; build it again"
        )
    return ServedArchive(tokenizer, metadata)
