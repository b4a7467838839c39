"""`godel deploy`: versions of the model, and how much of the traffic each gets."""

import argparse
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from gateway.client import CallFailed, GatewayClient
from gateway.deployments import OWN, WHOLE
from gateway.terminal import add_command, table


def add_deploy(groups: Any) -> None:
    """Add the command to the parser's groups."""
    deploy = groups.add_parser("deploy", help="versions of the model: add, weight, promote, rollback, remove")
    commands = deploy.add_subparsers(metavar="COMMAND", required=True)
    add_command(commands, "list", _list, "list versions, their servers and their shares of the requests")
    add = add_command(commands, "add", _add, "add a version, or change its servers; a new one gets no requests yet")
    add.add_argument("version", help="a name for it, such as 2.0")
    add.add_argument(
        "server", nargs="*", help=f"an inference address like http://10.0.0.2:8080; none: {OWN}, the gateways' own"
    )
    add.add_argument(
        "--management-port", type=int, metavar="PORT", help="of each server (the inference port's successor)"
    )
    weight = add_command(commands, "weight", _weigh, "give a version a share; the others keep their proportion")
    weight.add_argument("version")
    weight.add_argument("percent", type=int)
    promote = add_command(commands, "promote", _promote, "give a version all requests")
    promote.add_argument("version")
    add_command(commands, "rollback", _roll_back, "take the last change of weights back")
    remove = add_command(commands, "remove", _remove, "remove a version that gets no requests; it finishes its last")
    remove.add_argument("version")


def _list(client: GatewayClient, _: argparse.Namespace) -> None:
    _show(client.call("GET", "deployments"))


def _add(client: GatewayClient, command: argparse.Namespace) -> None:
    instances = [
        {"inference_url": url.rstrip("/"), "management_url": _management(url, command.management_port)}
        for url in command.server
    ]
    added = client.call("PUT", "deployments", command.version, json={"instances": instances})
    print(f"{added['name']}: servers {len(added['instances'])}, share {added['weight']} %")


def _weigh(client: GatewayClient, command: argparse.Namespace) -> None:
    _show(client.call("PUT", "deployments", command.version, "weight", json={"weight": command.percent}))


def _promote(client: GatewayClient, command: argparse.Namespace) -> None:
    _show(client.call("PUT", "deployments", command.version, "weight", json={"weight": WHOLE}))


def _roll_back(client: GatewayClient, _: argparse.Namespace) -> None:
    _show(client.call("POST", "deployments", "rollback"))


def _remove(client: GatewayClient, command: argparse.Namespace) -> None:
    client.call("DELETE", "deployments", command.version)
    print(f"removed {command.version}")


def _show(found: dict[str, Any]) -> None:
    rows = [
        (each["name"], f"{each['weight']} %", instance["inference_url"], "live" if instance["live"] else "down")
        for each in found["deployments"]
        for instance in each["instances"]
    ]
    table(("VERSION", "SHARE", "SERVER", "STATE"), rows)


def _management(url: str, port: int | None) -> str:
    """Return the management address beside an inference address: the same host, the next port."""
    try:
        parts = urlsplit(url)
        inference = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        raise CallFailed(f"{url} is no address like http://10.0.0.2:8080") from None
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    return urlunsplit((parts.scheme, f"{host}:{port or inference + 1}", "", "", ""))
