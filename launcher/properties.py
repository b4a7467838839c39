"""Reads `config.properties` and renders the one that an instance runs with."""

import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

ROOT: Final = Path(__file__).resolve().parent.parent
CONFIG: Final = ROOT / "config.properties"
_ADDRESSES: Final = ("inference_address", "management_address", "metrics_address")
_PORTS: Final = ("grpc_inference_port", "grpc_management_port")
# Names the worker's Unix socket; nothing listens on a port of this number.
_WORKER: Final = "initial_worker_port"
_PATHS: Final = ("model_store", "metrics_config")


# As java.util.Properties reads them.
_ESCAPE: Final = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))")


class PropertiesError(RuntimeError):
    """A settings file cannot be used; the message names file and setting."""


class PortBusyError(RuntimeError):
    """A port is taken; the message names it and the setting that changes it."""


def read_properties(path: Path = CONFIG) -> dict[str, str]:
    """Return the properties in `path`; relative paths become absolute, seen from the checkout.

    Raises PropertiesError when the file is missing or lacks what has to be known here.
    """
    try:
        lines = [_unescaped(line.strip()) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise PropertiesError(f"{path} cannot be read ({error}); `git checkout` brings it back") from error
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    properties = {name.strip(): value.strip() for name, _, value in pairs}
    for name in (*_ADDRESSES, *_PORTS, *_PATHS, "load_models"):
        if not properties.get(name):
            raise PropertiesError(f"{path} lacks {name}=...")
    for name in _ADDRESSES:
        _port_of(name, properties[name])
    for name in _PORTS:
        _number(name, properties[name])
    for name in _PATHS:
        properties[name] = str(ROOT / properties[name])
    properties["allowed_urls"] = f"file://{properties['model_store']}/.*"
    return properties


def render_properties(properties: Mapping[str, str]) -> str:
    """Return the text of a properties file, in ASCII: Java takes such a file for Latin-1."""
    return "".join(f"{name}={_escaped(value)}\n" for name, value in properties.items())


def loaded_model(properties: Mapping[str, str]) -> tuple[str, Path]:
    """Return the name and the archive of the model loaded at start. Raises PropertiesError unless it is just one."""
    name, _, archive = properties["load_models"].partition("=")
    if not name or not archive or "," in archive:
        raise PropertiesError(f"load_models={properties['load_models']} is to be one NAME=ARCHIVE, as godel=godel.mar")
    return name, Path(properties["model_store"]) / archive


def free_ports() -> dict[str, str]:
    """Return properties with free ports of this machine's loopback, for an instance beside others."""
    names = (*_ADDRESSES, *_PORTS, _WORKER)
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in names]
    ports = {name: each.getsockname()[1] for name, each in zip(names, sockets, strict=True)}
    for each in sockets:
        each.close()
    return {name: f"http://127.0.0.1:{port}" if name in _ADDRESSES else str(port) for name, port in ports.items()}


def check_ports(properties: Mapping[str, str]) -> None:
    """Raise PortBusyError when an instance with `properties` could not listen."""
    for name in _ADDRESSES:
        host, port = _port_of(name, properties[name])
        check_port(host, port, f"{name} in config.properties")
    for name in _PORTS:
        # TorchServe listens on the loopback alone with gRPC as well, unless told otherwise.
        check_port("127.0.0.1", _number(name, properties[name]), f"{name} in config.properties")


def check_port(host: str, port: int, setting: str) -> None:
    """Raise PortBusyError when `port` of `host` cannot be listened on; `setting` says where to change it."""
    try:
        # With SO_REUSEADDR, as servers set it: a port whose last owner has just gone is free.
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise PortBusyError(
            f"port {port} of {host} cannot be used ({error.strerror}): stop what holds it (`make stop` if it"
            f" is ours) or change {setting}"
        ) from error


def _escaped(value: str) -> str:
    units = value.replace("\\", "\\\\").encode("utf-16-be", "surrogatepass")
    codes = (int.from_bytes(units[place : place + 2]) for place in range(0, len(units), 2))
    return "".join(chr(code) if code < 0x80 else f"\\u{code:04x}" for code in codes)


def _unescaped(line: str) -> str:
    text = _ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else found[2], line)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # two escapes may be one character


def _port_of(name: str, address: str) -> tuple[str, int]:
    """Return host and port of an address like http://127.0.0.1:8080; the port must be spelt out."""
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        port = None
    if port is None or not parts.hostname:
        raise PropertiesError(f"{name}={address} in config.properties is no address like http://127.0.0.1:8080")
    return parts.hostname, port


def _number(name: str, value: str) -> int:
    if not value.isascii() or not value.isdecimal() or not 0 < int(value) <= 65535:
        raise PropertiesError(f"{name}={value} in config.properties is no port")
    return int(value)
