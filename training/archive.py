"""Builds a model archive: handler, contract, engine, weights, tokenizer and metadata in one `.mar`.

`python -m training.archive --model models/embedded --engine onnx --precision int8 --output model_store/godel.mar`

The same inputs give the same bytes. An archive appears whole or not at all, and is read again before it
is called done. With `--if-stale` nothing happens while the archive is what its own inputs would give: what is
not said on the command line is then what the archive was last made with, so that `make serve` keeps serving it.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from handler.contract.archive import (
    GENERATION_CONFIG,
    METADATA,
    MODEL_FOLDER,
    ArchiveError,
    check_archive,
    model_files,
    read_metadata,
)
from handler.contract.generation import GenerationParameters
from handler.contract.prompt import FORMAT_VERSION
from handler.engines import DEFAULT_ENGINE, check_engine
from handler.engines.base import EngineError
from training.checkpoint import CheckpointError, source_files
from training.serving import serving_folder, try_out
from training.worker_config import MODEL_CONFIG, ROOT, worker_config

HANDLER: Final = ROOT / "handler"
HANDLER_MODULE: Final = HANDLER / "godel_handler.py"
TORCH_STUB: Final = HANDLER / "torch_stub.py"
BUILDERS: Final = (
    *(ROOT / "training" / f"{name}.py" for name in ("archive", "checkpoint", "serving", "worker_config")),
    *(ROOT / "training" / f"{name}.py" for name in ("onnx_export", "onnx_graphs", "quantization", "synthetic")),
    ROOT / "examples" / "cricket.txt",  # read for calibration
)

DEFAULTS: Final = {
    "model": "models/embedded",
    "engine": DEFAULT_ENGINE,
    "precision": "auto",
    "name": "godel",
    "version": "1.0",
}
"""What an archive is made of when nobody says."""

# The least a zip file can say, in its words and in the manifest's: a build has no date, only its inputs do.
ZIP_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
MANIFEST_EPOCH: Final = "01/01/1980 00:00:00"


def build_archive(
    model: str, output: Path, *, engine: str, precision: str, name: str = "godel", version: str = "1.0"
) -> dict[str, Any]:
    """Build `output` from `model` (a checkpoint folder or a hub name) and return its metadata.

    The model is asked a question first. Raises ArchiveError, CheckpointError or EngineError; `output` is then left as
    it was.
    """
    check_engine(engine, precision)
    if output.suffix != ".mar":
        raise ArchiveError(f"{output} is to end in .mar, or TorchServe will not take it")
    with tempfile.TemporaryDirectory(prefix="godel-archive-") as scratch:
        extra = Path(scratch) / "extra"
        folder = serving_folder(model, Path(scratch), engine=engine, precision=precision)
        metadata = _recipe(model, engine, precision, name, version)
        try_out(folder, engine=engine, precision=precision)
        metadata["parameters"] = _own_parameters(folder)
        metadata["model_sha256"] = _hash({Path(file): folder / file for file in model_files(engine)})
        _lay_out(extra, folder, metadata)
        config = Path(scratch) / "model-config.yaml"
        config.write_text(yaml.safe_dump(worker_config(engine, precision), sort_keys=True), encoding="utf-8")
        built = _run_archiver(extra, config, Path(scratch), name, version)
        output.parent.mkdir(parents=True, exist_ok=True)
        half = output.with_name(f".{output.name}.{os.getpid()}")
        try:
            _normalise(built, half)
            check_archive(half)
            half.replace(output)
        finally:
            half.unlink(missing_ok=True)
    return metadata


def is_stale(archive: Path, model: str, *, engine: str, precision: str, name: str, version: str) -> bool:
    """Return whether `archive` is missing, damaged, or not what these inputs would give.

    A hub name cannot be compared without fetching it: such an archive is stale when handler or settings changed.
    """
    try:
        held = check_archive(archive)
    except ArchiveError:
        return True
    return any(held.get(key) != value for key, value in _recipe(model, engine, precision, name, version).items())


def code_sha256() -> str:
    """Return a digest of all code and settings that decide what is made of a checkpoint and how it is served."""
    return _hash({path.relative_to(ROOT): path for path in (*_handler_files(), MODEL_CONFIG, *BUILDERS)})


def held_choices(archive: Path) -> dict[str, str]:
    """Return what `archive` was made with, by the names of DEFAULTS; nothing of an archive that cannot be read."""
    try:
        held = read_metadata(archive)
    except ArchiveError:
        return {}
    found = {choice: held.get("source" if choice == "model" else choice) for choice in DEFAULTS}
    return {choice: value for choice, value in found.items() if isinstance(value, str)}


def _recipe(model: str, engine: str, precision: str, name: str, version: str) -> dict[str, Any]:
    """Return what an archive says of its inputs; no times, so that a build can be repeated."""
    limits = worker_config(engine, precision)["handler"]
    recipe = {
        "name": name,
        "version": version,
        "source": model,
        "engine": engine,
        "precision": precision,
        "format_version": FORMAT_VERSION,
        "max_prompt_tokens": limits["max_prompt_tokens"],
        "code_sha256": code_sha256(),
    }
    folder = Path(model)
    if folder.is_dir():
        recipe["source_sha256"] = _hash({file.relative_to(folder): file for file in source_files(folder)})
    return recipe


def _own_parameters(folder: Path) -> dict[str, Any]:
    """Return the defaults that a model brings along for its answers, by the names that transformers shares with us."""
    path = folder / GENERATION_CONFIG
    if not path.is_file():
        return {}
    names = GenerationParameters.bounds().keys() - {"num_beams", "seed"}
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        own = {name: said[name] for name in sorted(names) if said.get(name) is not None}
        GenerationParameters.from_mapping(own)
    except (ValueError, AttributeError) as error:
        raise ArchiveError(f"{path}: {error}") from error
    return own


def _handler_files() -> Iterator[Path]:
    yield from sorted(path for path in HANDLER.rglob("*.py") if "__pycache__" not in path.parts)


def _lay_out(extra: Path, folder: Path, metadata: Mapping[str, Any]) -> None:
    """Fill `extra` with what stands beside the handler module in the worker's folder."""
    for source in _handler_files():
        if source == HANDLER_MODULE:
            continue  # the archiver puts it at the root
        target = extra / source.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    (extra / MODEL_FOLDER).mkdir()
    for file in model_files(metadata["engine"]):
        shutil.copyfile(folder / file, extra / MODEL_FOLDER / file)
    if metadata["engine"] != "torch":
        shutil.copyfile(TORCH_STUB, extra / "torch.py")
    (extra / METADATA).write_text(json.dumps(metadata, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _run_archiver(extra: Path, config: Path, scratch: Path, name: str, version: str) -> Path:
    command = [sys.executable, "-m", "model_archiver.model_packaging", "--model-name", name, "--version", version]
    command += ["--handler", str(HANDLER_MODULE), "--extra-files", str(extra)]
    command += ["--config-file", str(config), "--export-path", str(scratch), "--archive-format", "zip-store", "--force"]
    # It works in a folder of the model's name among the temporary ones, where another build may be at work.
    own = os.environ | {"TMPDIR": str(scratch)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=own)
    built = scratch / f"{name}.mar"
    if done.returncode or not built.is_file():
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise ArchiveError(f"torch-model-archiver failed: {lines[-1]}")
    return built


def _normalise(built: Path, output: Path) -> None:
    """Copy an archive with sorted names, and the same date in every build for its files and its manifest.

    torch-model-archiver writes the present time in both places, so that no two builds would be alike.
    TorchServe warns of a manifest without a date, hence a fixed one instead of none.
    """
    with zipfile.ZipFile(built) as source, zipfile.ZipFile(output, "w", zipfile.ZIP_STORED) as target:
        for name in sorted(source.namelist()):
            content = source.read(name)
            if name == "MAR-INF/MANIFEST.json":
                manifest = json.loads(content)
                manifest["createdOn"] = MANIFEST_EPOCH
                content = json.dumps(manifest, indent=2, sort_keys=True).encode()
            entry = zipfile.ZipInfo(name, ZIP_EPOCH)
            entry.external_attr = 0o644 << 16
            target.writestr(entry, content)


def _hash(files: Mapping[Path, Path]) -> str:
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        digest.update(f"{name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def main() -> None:
    """Build an archive from the command line."""
    parser = argparse.ArgumentParser(description="Build a TorchServe archive from a T5/GODEL checkpoint.")
    helps = {
        "model": "checkpoint folder or hub name",
        "engine": "engine that serves it",
        "precision": "auto; onnx: int8 or int4, torch: fp32 or bf16",
        "name": "name in TorchServe",
        "version": "version in TorchServe",
    }
    for choice, default in DEFAULTS.items():
        parser.add_argument(f"--{choice}", help=f"{helps[choice]} ({default})")
    parser.add_argument("--output", type=Path, default=Path("model_store/godel.mar"), help="(%(default)s)")
    parser.add_argument("--if-stale", action="store_true", help="do nothing while the archive is up to date")
    options = parser.parse_args()
    said = {choice: value for choice in DEFAULTS if (value := getattr(options, choice)) is not None}
    try:
        held = held_choices(options.output) if options.if_stale else {}
        if any(said.get(choice, held.get(choice)) != held.get(choice) for choice in ("engine", "model")):
            held.pop("precision", None)  # that of one engine or export says nothing to another
        chosen = DEFAULTS | held | said
        model = chosen.pop("model")
        if options.if_stale and not is_stale(options.output, model, **chosen):
            return
        metadata = build_archive(model, options.output, **chosen)
    except (ArchiveError, CheckpointError, EngineError, OSError) as error:
        sys.exit(f"archive: {' '.join(str(error).split())}")
    size = options.output.stat().st_size / 1e6
    print(f"built {options.output} ({size:.1f} MB): {metadata['engine']}, {metadata['precision']}, {model}")


if __name__ == "__main__":
    main()
