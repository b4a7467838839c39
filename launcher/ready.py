"""`python -m launcher.ready`: exit code 0 when the TorchServe of a run folder answers, 1 and why when it does not.

A probe for containers. TorchServe's `/ping` says yes without a worker, and management describes a model that no worker
has loaded; so ready means a READY worker and an answer of the present workers to a canary prompt. They are asked for it
once, which a file in the run folder remembers: later probes must not wait in the queue behind users, or a busy instance
would be taken for a broken one.
"""

import argparse
import http.client
import json
import sys
import time
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from handler.contract.canary import canary
from handler.contract.wire import WireError, decode_reply
from launcher.properties import PropertiesError, loaded_model, read_properties

CANARY_SECONDS: Final = 10.0
MANAGEMENT_SECONDS: Final = 4.0
PROOF: Final = "answered"


class NotReadyError(RuntimeError):
    """It does not answer; the message says what failed."""


def main(arguments: list[str] | None = None) -> int:
    """Ask once; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m launcher.ready", description="Is TorchServe's model ready?")
    parser.add_argument("--run-dir", type=Path, required=True, help="that of python -m launcher.foreground")
    options = parser.parse_args(arguments)
    try:
        check(options.run_dir)
    except (NotReadyError, PropertiesError) as error:
        print(f"not ready: {error}", file=sys.stderr)
        return 1
    return 0


def check(run_dir: Path) -> None:
    """Return when the model answers. Raises NotReadyError or PropertiesError."""
    settings = run_dir / "config.properties"
    if not settings.is_file():
        raise NotReadyError(f"nothing has been started in {run_dir}")
    properties = read_properties(settings)
    model, _ = loaded_model(properties)
    keys = _keys(run_dir) if properties.get("disable_token_authorization") != "true" else {}
    workers = _ready_workers(properties["management_address"], model, keys.get("management"))
    proof = run_dir / PROOF
    if not proof.is_file() or proof.read_text(encoding="ascii") != workers:
        _ask(properties["inference_address"], model, keys.get("inference"))
        proof.write_text(workers, encoding="ascii")


def _keys(run_dir: Path) -> dict[str, str]:
    """Return the keys that TorchServe asks for, where it does, by what they open."""
    try:
        written = json.loads((run_dir / "key_file.json").read_text(encoding="utf-8"))
        return {name: str(written[name]["key"]) for name in ("management", "inference")}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise NotReadyError("TorchServe has not written its keys yet") from error


def _ready_workers(address: str, model: str, key: str | None) -> str:
    """Return the process ids of the READY workers and when each began; a restarted container may use ids again."""
    status, body = _request(address, "GET", f"/models/{model}", None, key, MANAGEMENT_SECONDS)
    if status != 200:
        raise NotReadyError(f"management answered with status {status}")
    try:
        workers = json.loads(body)[0]["workers"]
        ready = sorted(f"{each['pid']} {each['startTime']}" for each in workers if each["status"] == "READY")
    except (ValueError, LookupError, TypeError) as error:
        raise NotReadyError("management did not describe the model") from error
    if not ready:
        raise NotReadyError("no worker has loaded the model")
    return "\n".join(ready)


def _ask(address: str, model: str, key: str | None) -> None:
    request = canary(time.time(), CANARY_SECONDS)
    status, body = _request(address, "POST", f"/predictions/{model}", request.encode(), key, CANARY_SECONDS + 1)
    try:
        decode_reply(body)
    except WireError as error:
        raise NotReadyError(f"a canary prompt got status {status}") from error


def _request(
    address: str, method: str, path: str, body: bytes | None, key: str | None, seconds: float
) -> tuple[int, bytes]:
    """Return status and body. Not by urllib: that would send it through a proxy for the world outside."""
    place = urlsplit(address)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=seconds)
    try:
        headers = {"content-type": "application/json", "connection": "close"}
        connection.request(method, path, body, headers | ({"authorization": f"Bearer {key}"} if key else {}))
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException) as error:
        raise NotReadyError(f"{address} does not answer ({error or type(error).__name__})") from error
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
