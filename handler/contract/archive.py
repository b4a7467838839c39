"""What a model archive (.mar, a zip file) holds, and how to read it: for who builds, starts or counts with it."""

import json
import zipfile
from pathlib import Path
from typing import Any, Final

from handler.contract.prompt import FORMAT_VERSION

METADATA: Final = "metadata.json"
MODEL_FOLDER: Final = "model"
TOKENIZER: Final = f"{MODEL_FOLDER}/tokenizer.json"
MODEL_FILES: Final = ("config.json", "model.safetensors", "tokenizer.json")
"""The files of MODEL_FOLDER, which are also those of a checkpoint folder."""


class ArchiveError(RuntimeError):
    """The archive cannot be built or is broken; the message says what to do."""


def read_metadata(archive: Path) -> dict[str, Any]:
    """Return the metadata of `archive`. Raises ArchiveError when it is no whole archive of a format spoken here."""
    advice = "build it again with `make archive`"
    try:
        with zipfile.ZipFile(archive) as mar:
            broken = mar.testzip()
            names = set(mar.namelist())
            metadata = json.loads(mar.read(METADATA))
    except FileNotFoundError as error:
        raise ArchiveError(f"{archive} does not exist; build it with `make archive`") from error
    except (OSError, zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ArchiveError(f"{archive} is no model archive ({error}); {advice}") from error
    wanted = {f"{MODEL_FOLDER}/{file}" for file in MODEL_FILES} | {"godel_handler.py", "MAR-INF/MANIFEST.json"}
    if broken or not wanted <= names:
        raise ArchiveError(f"{archive} is damaged at {broken or min(wanted - names)}; {advice}")
    if not isinstance(metadata, dict) or metadata.get("format_version") != FORMAT_VERSION:
        found = metadata.get("format_version") if isinstance(metadata, dict) else "none"
        raise ArchiveError(f"{archive} has prompt format {found}, this version speaks {FORMAT_VERSION}; {advice}")
    return metadata
