"""DSTC9 track 1 (alexa/alexa-with-dstc9-track1-dataset): knowledge-seeking turns as grounded records.

`data/{train,val}/logs.json` is a list of dialogues, each a list of turns with `text`; `labels.json` says of each,
in the same order, whether its last turn is a `target`, and then which `knowledge` answers it and a `response`.
`data/knowledge.json` holds the snippets by domain, entity and document.
"""

import hashlib
import os
import random
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm

from training.data import DataError, Record, field, read_json

URL: Final = "https://github.com/alexa/alexa-with-dstc9-track1-dataset"
CLONE: Final = "clone"
"""Names `URL` on the command line."""
_FOLDERS: Final = {"train": "train", "validation": "val"}
# A server that stalls is given up after a minute, and nobody is there to type a password.
_PATIENCE: Final = ("-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=60")
_UNATTENDED: Final = {"GIT_TERMINAL_PROMPT": "0", "GIT_SSH_COMMAND": "ssh -oBatchMode=yes -oConnectTimeout=30"}


def find_dstc9(source: str, cache: Path) -> Path:
    """Return the folder of the data set: `source` itself, or its clone in `cache` where it names a git repository.

    A repository is `clone` (the published one), a URL or what ends in `.git`; one that is in `cache` already is
    not fetched again. Raises DataError when it cannot be reached or is not the data set.
    """
    folder = Path(source)
    if source == CLONE or "://" in source or source.startswith("git@") or folder.suffix == ".git":
        folder = _clone(URL if source == CLONE else source, cache)
    if not (folder / "data" / "knowledge.json").is_file():
        raise DataError(
            f"{folder} is no copy of the DSTC9 track 1 data: {folder / 'data' / 'knowledge.json'} is missing."
            f" Give the folder of a clone of {URL}, or {CLONE!r} to have it cloned"
        )
    return folder


def read_dstc9(folder: Path, split: str) -> list[Record]:
    """Return the knowledge-seeking turns of `split` ("train" or "validation") in the order of the files.

    The knowledge is `Q: {title} A: {body}` of each labelled snippet. Raises DataError naming file, item and field.
    """
    place = folder / "data" / _FOLDERS[split]
    snippets = read_json(folder / "data" / "knowledge.json")
    logs, labels = _items(place / "logs.json"), _items(place / "labels.json")
    if len(logs) != len(labels):
        raise DataError(f"{place}: logs.json has {len(logs)} items and labels.json {len(labels)}; they go in pairs")
    records = []
    for number, (log, label) in enumerate(zip(logs, tqdm(labels, desc=f"{place}", unit=" turns"), strict=True)):
        where = f"{place / 'labels.json'}, item {number}"
        if not field(label, "target", bool, where):
            continue
        knowledge = " ".join(
            _snippet(snippets, reference, where) for reference in field(label, "knowledge", list, where)
        )
        response = field(label, "response", str, where)
        if not response.strip():
            raise DataError(f"{where}: field 'response' is empty")
        records.append(Record(_turns(log, f"{place / 'logs.json'}, item {number}"), knowledge, response))
    if not records:
        raise DataError(f"{place / 'labels.json'} has no item whose 'target' is true")
    return records


def sample(records: Sequence[Record], share: float, seed: int) -> list[Record]:
    """Return about `share` of `records`, in order.

    One draw a record, in order, kept when below `share`: the rule of GODEL's own conversion. With its seed, 2022,
    and its share, 0.025, the 19,184 official training records give its 501, the same ones.
    """
    rng = random.Random(seed)
    return [record for record in records if rng.random() < share]


def _items(path: Path) -> list[Any]:
    items = read_json(path)
    if not isinstance(items, list):
        raise DataError(f"{path}: expected a list, found {type(items).__name__}")
    return items


def _turns(log: Any, where: str) -> tuple[str, ...]:
    if not isinstance(log, list) or not log:
        raise DataError(f"{where}: expected a list of turns")
    turns = [field(turn, "text", str, f"{where}, turn {number}").strip() for number, turn in enumerate(log)]
    if not turns[-1]:
        raise DataError(f"{where}, turn {len(turns) - 1}: field 'text' is empty, and it is the turn to answer")
    return tuple(turn for turn in turns if turn)


def _snippet(snippets: Any, reference: Any, where: str) -> str:
    """Return the snippet that an entry of a label's `knowledge` refers to, as GODEL's conversion spells it."""
    domain = field(reference, "domain", str, f"{where}, 'knowledge'")
    # Numbers, or "*" for what holds of the whole domain; strings as keys of knowledge.json.
    entity, document = (
        str(field(reference, name, object, f"{where}, 'knowledge'")) for name in ("entity_id", "doc_id")
    )
    try:
        found = snippets[domain][entity]["docs"][document]
    except (KeyError, TypeError, IndexError) as error:
        raise DataError(f"{where}: knowledge.json has no snippet {domain} / {entity} / {document}") from error
    place = f"knowledge.json, {domain} / {entity} / {document}"
    return f"Q: {field(found, 'title', str, place)} A: {field(found, 'body', str, place)}"


def _clone(url: str, cache: Path) -> Path:
    """Return the clone of `url` in `cache`: whole or not there."""
    name = Path(url).name.removesuffix(".git")
    target = cache / f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
    if target.is_dir():
        return target
    half = target.with_name(f".{target.name}.half")
    command = ["git", *_PATIENCE, "clone", "--depth", "1", "--quiet", "--", url, str(half)]
    try:
        shutil.rmtree(half, ignore_errors=True)
        cache.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            command, check=False, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, env=os.environ | _UNATTENDED
        )
        if done.returncode:
            said = " ".join(done.stderr.decode(errors="replace").split())
            raise DataError(
                f"{url} cannot be cloned: git says {said!r}. Where this machine reaches no network, clone it elsewhere"
                " and give the folder"
            )
        half.rename(target)
    except FileNotFoundError as error:
        raise DataError(f"{url} cannot be cloned: the program git is not installed") from error
    except OSError as error:
        raise DataError(f"{target} cannot be written: {error}") from error
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return target
