"""Reads `config.properties` and renders the one that an instance runs with."""

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

ROOT: Final = Path(__file__).resolve().parent.parent
CONFIG: Final = ROOT / "config.properties"
_ADDRESSES: Final = ("inference_address", "management_address", "metrics_address")
_PORTS: Final = ("grpc_inference_port", "grpc_management_port", "initial_worker_port")
_PATHS: Final = ("model_store", "metrics_config")


class PortBusyError(RuntimeError):
    """A port is taken; the message names it and the setting that changes it."""


def read_properties(path: Path = CONFIG) -> dict[str, str]:
    """Return the properties in `path`; relative paths become absolute, seen from the checkout."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    pairs = (line.split("=", 1) for line in lines if line and not line.startswith("#"))
    properties = {name.strip(): value.strip() for name, value in pairs}
    for name in _PATHS:
        properties[name] = str(ROOT / properties[name])
    properties["allowed_urls"] = f"file://{properties['model_store']}/.*"
    return properties


def render_properties(properties: Mapping[str, str]) -> str:
    """Return the text of a properties file."""
    return "".join(f"{name}={value}\n" for name, value in properties.items())


def free_ports() -> dict[str, str]:
    """Return properties with free ports of this machine's loopback, for an instance beside others."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in (*_ADDRESSES, *_PORTS)]
    numbers = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    addresses = {name: f"http://127.0.0.1:{port}" for name, port in zip(_ADDRESSES, numbers, strict=False)}
    return addresses | {name: str(port) for name, port in zip(_PORTS, numbers[len(_ADDRESSES) :], strict=True)}


def check_ports(properties: Mapping[str, str]) -> None:
    """Raise PortBusyError when an instance with `properties` could not listen."""
    for name in _ADDRESSES:
        address = urlsplit(properties[name])
        check_port(address.hostname or "127.0.0.1", address.port or 80, f"{name} in config.properties")
    for name in _PORTS:
        check_port("127.0.0.1", int(properties[name]), f"{name} in config.properties")


def check_port(host: str, port: int, setting: str) -> None:
    """Raise PortBusyError when `port` of `host` cannot be listened on; `setting` says where to change it."""
    try:
        # SO_REUSEADDR as servers set it: a port whose last owner has just gone is free.
        socket.create_server((host, port), reuse_port=False).close()
    except OSError as error:
        raise PortBusyError(
            f"port {port} of {host} cannot be used ({error.strerror}): stop what holds it (`make stop` if it"
            f" is ours) or change {setting}"
        ) from error
