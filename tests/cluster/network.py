"""Machines that are none: network namespaces on a switch, each with an address, whose cables can be pulled.

Everything hangs on a namespace of its own, the switch's too: nothing of it is seen from outside, so that two runs
cannot get in each other's way, and it ends with the names, which carry the process id.
"""

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.gateway.required import require

CLONE_NEWNET: Final = 0x40000000  # linux/sched.h
NAMESPACES: Final = Path("/run/netns")
PREFIX: Final = "godel"
SUBNET: Final = "10.77.0"

_LIBC: Final = ctypes.CDLL(None, use_errno=True)


class Network:
    """A switch and the machines on it. Made by `running_network`."""

    def __init__(self, tag: str) -> None:
        self._tag = tag
        self._switch = self._add("switch")
        _ip("-n", self._switch, "link", "add", "bridge", "type", "bridge", "forward_delay", "0")
        _ip("-n", self._switch, "link", "set", "bridge", "up")

    def plug_in(self, host: str, number: int) -> str:
        """Add a machine; return its address."""
        name, address = self._add(host), f"{SUBNET}.{number}"
        port = f"port{number}"
        _ip("-n", self._switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("-n", self._switch, "link", "set", port, "master", "bridge", "up")
        _ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
        _ip("-n", name, "link", "set", "eth0", "up")
        return address

    def cut(self, number: int) -> None:
        """Pull the cable of the machine whose address ends in `number`: nothing that is sent to it arrives."""
        _ip("-n", self._switch, "link", "set", f"port{number}", "down")

    def mend(self, number: int) -> None:
        """Put it back."""
        _ip("-n", self._switch, "link", "set", f"port{number}", "up")

    @contextlib.contextmanager
    def inside(self, host: str) -> Iterator[None]:
        """Be on that machine: what this thread connects and starts meanwhile, it does there."""
        with Path("/proc/thread-self/ns/net").open() as before:
            with (NAMESPACES / self._name(host)).open() as there:
                _enter(there.fileno())
            try:
                yield
            finally:
                _enter(before.fileno())

    def _add(self, host: str) -> str:
        name = self._name(host)
        _ip("netns", "add", name)
        _ip("-n", name, "link", "set", "lo", "up")
        return name

    def _name(self, host: str) -> str:
        return f"{self._tag}-{host}"


@contextlib.contextmanager
def running_network() -> Iterator[Network]:
    """Yield a network; remove it after. Skips where this process may not make one."""
    require(shutil.which("ip"), "iproute2", "apt-get install iproute2")
    require(True if _may() else None, "CAP_NET_ADMIN, which makes network namespaces,", "run as root")
    _sweep()
    try:
        yield Network(f"{PREFIX}{os.getpid()}")
    finally:
        _remove(f"{PREFIX}{os.getpid()}-")


def _may() -> bool:
    """Whether this process may make namespaces and bridges: being root is not enough in most containers."""
    name = f"{PREFIX}{os.getpid()}-probe"
    try:
        _ip("netns", "add", name)
    except subprocess.CalledProcessError:
        return False
    try:
        _ip("-n", name, "link", "add", "bridge", "type", "bridge", "forward_delay", "0")
    except subprocess.CalledProcessError:
        return False
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)  # noqa: S607
    return True


def _sweep() -> None:
    """Remove what runs that were killed have left behind."""
    for path in NAMESPACES.glob(f"{PREFIX}*-*"):
        pid = path.name.removeprefix(PREFIX).partition("-")[0]
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists():
            _remove(f"{PREFIX}{pid}-")


def _remove(prefix: str) -> None:
    """Remove the namespaces whose names begin so; links go with them."""
    for path in NAMESPACES.glob(f"{prefix}*"):
        subprocess.run(["ip", "netns", "delete", path.name], check=False, capture_output=True)  # noqa: S607


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)  # noqa: S607


def _enter(descriptor: int) -> None:
    if _LIBC.setns(descriptor, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
