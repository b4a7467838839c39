"""Any T5/GODEL checkpoint as the folder the engines read: config.json, model.safetensors, tokenizer.json.

A folder already laid out so is taken as it is. One like the hub's (`pytorch_model.bin`, `spiece.model`,
`added_tokens.json`) is converted; that alone needs `transformers`. A pickle is only ever read as weights.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, Final

from handler.contract.archive import CHECKPOINT_FILES, GENERATION_CONFIG, ONNX_FILES
from handler.contract.prompt import TURN_SEPARATOR

_HUB_FILES: Final = (
    *CHECKPOINT_FILES,
    GENERATION_CONFIG,
    "pytorch_model.bin",
    "spiece.model",
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
)
_MADE_OF: Final = "converted_from.json"


class CheckpointError(RuntimeError):
    """A checkpoint cannot be used; the message names the file and what to do."""


def resolve_checkpoint(model: str, scratch: Path) -> Path:
    """Return a folder with CHECKPOINT_FILES for `model`, a folder or a hub name; `scratch`, where it must be made.

    `scratch` is whole or not there, and stays as it is where it was made of the same files: of several processes,
    those that come after the first take what it has made. Raises CheckpointError.
    """
    folder = Path(model)
    if not folder.is_dir():
        if model.count("/") != 1 or model.startswith((".", "/", "models/")):
            raise CheckpointError(
                f"there is no checkpoint folder {model}, and it is no hub name like owner/name; say which with MODEL="
            )
        folder = _fetch(model)
    if all((folder / name).is_file() for name in CHECKPOINT_FILES):
        return folder
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder / 'config.json'} is missing: is this a checkpoint folder?")
    made_of = json.dumps({file.name: sha256(file) for file in source_files(folder)})
    if (scratch / _MADE_OF).is_file() and (scratch / _MADE_OF).read_text(encoding="utf-8") == made_of:
        return scratch
    half = scratch.with_name(f".{scratch.name}.half")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True)
    try:
        shutil.copyfile(folder / "config.json", half / "config.json")
        if (folder / GENERATION_CONFIG).is_file():
            shutil.copyfile(folder / GENERATION_CONFIG, half / GENERATION_CONFIG)
        _convert_weights(folder, half)
        _convert_tokenizer(folder, half)
        (half / _MADE_OF).write_text(made_of, encoding="utf-8")
        shutil.rmtree(scratch, ignore_errors=True)
        half.rename(scratch)
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return scratch


def sha256(path: Path) -> str:
    """Return the digest of a file's contents. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_files(folder: Path) -> list[Path]:
    """Return the files that what is served of `folder` depends on."""
    for names in (ONNX_FILES, CHECKPOINT_FILES):
        if all((folder / name).is_file() for name in names):
            return [folder / name for name in (*names, GENERATION_CONFIG) if (folder / name).is_file()]
    return [folder / name for name in _HUB_FILES if (folder / name).is_file()]


def _fetch(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(_HUB_FILES)))
    except Exception as error:  # the library and the layers below it raise a dozen kinds
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(
            f"{name} cannot be fetched from the model hub ({type(error).__name__}: {reason[0][:200]});"
            " without a hub, give MODEL= a local folder or leave it out for the embedded model"
        ) from error


def _convert_weights(folder: Path, scratch: Path) -> None:
    """Write `scratch/model.safetensors` from whichever weights `folder` holds."""
    if (folder / "model.safetensors").is_file():
        shutil.copyfile(folder / "model.safetensors", scratch / "model.safetensors")
        return
    source = folder / "pytorch_model.bin"
    if not source.is_file():
        raise CheckpointError(f"{folder} holds neither model.safetensors nor pytorch_model.bin")
    import torch
    from safetensors.torch import save_file

    try:
        # weights_only: a pickle could run any code, a table of tensors cannot.
        state: dict[str, Any] = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{source} does not load as weights alone, so it is not trusted ({reason[:200]}); ask its publisher for"
            " model.safetensors"
        ) from error
    aliases = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
    if (
        "lm_head.weight" in state
        and "shared.weight" in state
        and torch.equal(state["lm_head.weight"], state["shared.weight"])
    ):
        aliases.add("lm_head.weight")
    tensors = {name: tensor.contiguous().clone() for name, tensor in state.items() if name not in aliases}
    save_file(tensors, scratch / "model.safetensors", metadata={"format": "pt"})


def _convert_tokenizer(folder: Path, scratch: Path) -> None:
    """Write `scratch/tokenizer.json` from the folder's own, or from its SentencePiece model and added tokens."""
    if (folder / "tokenizer.json").is_file():
        shutil.copyfile(folder / "tokenizer.json", scratch / "tokenizer.json")
        return
    if not (folder / "spiece.model").is_file():
        raise CheckpointError(f"{folder} holds neither tokenizer.json nor spiece.model")
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise CheckpointError(
            f"{folder} has a SentencePiece tokenizer; converting it needs requirements/training.txt installed"
        ) from error
    # Said, not left open: where a folder brings code along, the library would ask whoever sits at the terminal.
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False)
    backend = tokenizer.backend_tokenizer
    added = [token.content for token in backend.get_added_tokens_decoder().values()]
    # GODEL's EOS and <PAD> are ordinary added tokens; as control tokens they cannot show up in an answer.
    backend.add_special_tokens([token for token in added if token in (TURN_SEPARATOR, "<PAD>")])
    backend.no_padding()
    backend.no_truncation()
    backend.save(str(scratch / "tokenizer.json"))
