"""What a model archive (.mar, a zip file) holds, and how to read it: for who builds, starts or counts with it."""

import json
import zipfile
from pathlib import Path
from typing import Any, Final

from handler.contract.prompt import FORMAT_VERSION

METADATA: Final = "metadata.json"
MODEL_FOLDER: Final = "model"
TOKENIZER_FILE: Final = "tokenizer.json"
TOKENIZER: Final = f"{MODEL_FOLDER}/{TOKENIZER_FILE}"
CHECKPOINT_FILES: Final = ("config.json", "model.safetensors", TOKENIZER_FILE)
"""What a checkpoint folder holds."""
ONNX_FILES: Final = (
    "config.json",
    "encoder.onnx",
    "encoder.onnx.data",
    "decoder.onnx",
    "decoder.onnx.data",
    "embedding.npy",
    "encoder_bias.npy",
    "decoder_bias.npy",
    TOKENIZER_FILE,
)
"""What `training.export` makes of a checkpoint for the engine onnx: both graphs and their weights, the embedding in
float16, shape (vocabulary, d_model), and the position biases by bucket, shape (buckets, heads)."""


GENERATION_CONFIG: Final = "generation_config.json"
"""Beside a checkpoint, as transformers writes it: what the model brings along for its answers. May be missing."""


def model_files(engine: str) -> tuple[str, ...]:
    """Return the files of MODEL_FOLDER in an archive for `engine`."""
    return ONNX_FILES if engine == "onnx" else CHECKPOINT_FILES


_ADVICE: Final = "build it again with `make archive`"


class ArchiveError(RuntimeError):
    """The archive cannot be built or is broken; the message says what to do."""


def read_metadata(archive: Path) -> dict[str, Any]:
    """Return the metadata of `archive`, its contents unread.

    Raises ArchiveError when it is cut short, lacks a file, or has a format not spoken here.
    """
    try:
        with zipfile.ZipFile(archive) as mar:
            names = set(mar.namelist())
            metadata = json.loads(mar.read(METADATA))
    except FileNotFoundError as error:
        raise ArchiveError(f"{archive} does not exist; build it with `make archive`") from error
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, NotImplementedError, RuntimeError) as error:
        raise ArchiveError(f"{archive} is no model archive ({error}); {_ADVICE}") from error
    if not isinstance(metadata, dict) or metadata.get("format_version") != FORMAT_VERSION:
        found = metadata.get("format_version") if isinstance(metadata, dict) else "none"
        raise ArchiveError(f"{archive} has prompt format {found}, this version speaks {FORMAT_VERSION}; {_ADVICE}")
    files = model_files(str(metadata.get("engine")))
    wanted = {f"{MODEL_FOLDER}/{file}" for file in files} | {"godel_handler.py", "MAR-INF/MANIFEST.json"}
    if not wanted <= names:
        raise ArchiveError(f"{archive} lacks {min(wanted - names)}; {_ADVICE}")
    return metadata


def check_archive(archive: Path) -> dict[str, Any]:
    """Return the metadata of `archive` after reading all of it. Raises ArchiveError also for a damaged file in it."""
    metadata = read_metadata(archive)
    with zipfile.ZipFile(archive) as mar:
        if damaged := mar.testzip():
            raise ArchiveError(f"{archive} is damaged at {damaged}; {_ADVICE}")
    return metadata
