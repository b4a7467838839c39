"""`godel`: bots, chats, keys and versions of the model from a terminal, over the gateway's HTTP interface."""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from gateway.client import CallFailed, GatewayClient
from gateway.deploy_commands import add_deploy
from gateway.keys import SCOPES
from gateway.loopback import is_loopback
from gateway.terminal import add_command, harmless, table
from handler.contract.prompt import INSTRUCTIONS

URL: Final = "http://127.0.0.1:8000"

HERE: Final = frozenset({"import", "backup", "restore"})
"""Commands that open the database themselves."""


def main(arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> int:
    """Run a command; return the exit status. What goes wrong is one line on standard error."""
    command = _parser().parse_args(arguments)
    url = command.url or environment.get("GODEL_URL", URL)
    if command.group in HERE and not _is_here(url):
        why = f"{command.group} works on the database of the machine it runs on, not over {url}"
        print(f"godel: {harmless(why)}: run it there, without GODEL_URL", file=sys.stderr)
        return 1
    if command.group == "import":
        from gateway.__main__ import main as gateway

        return gateway(["import", str(command.file), *(["--replace"] if command.replace else [])])
    if command.group in ("backup", "restore"):
        from gateway.__main__ import main as gateway

        return gateway([command.group, str(command.file)])
    key = (environment.get("GODEL_API_KEY") or environment.get("GODEL_ADMIN_KEY") or "").strip() or None
    try:
        with GatewayClient(url, key) as client:
            command.run(client, command)
            sys.stdout.flush()
    except CallFailed as failure:
        print(f"godel: {harmless(str(failure))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return 0


def _is_here(url: str) -> bool:
    try:
        return is_loopback(urlsplit(url).hostname or "")
    except ValueError:  # no address at all
        return False


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="godel",
        description="Bots, chats, keys and model versions of a godel-serve gateway.",
        epilog="The key is GODEL_API_KEY's, else GODEL_ADMIN_KEY's.",
    )
    parser.add_argument("--url", help=f"the gateway (GODEL_URL, or else {URL})")
    groups = parser.add_subparsers(dest="group", metavar="COMMAND", required=True)

    bots = groups.add_parser("bots", help="list, create, show, teach, delete").add_subparsers(
        metavar="COMMAND", required=True
    )
    add_command(bots, "list", _list_bots, "list bots")
    create = add_command(bots, "create", _create_bot, "create a bot")
    create.add_argument("bot")
    create.add_argument("--name", default="", help="what people call it")
    create.add_argument("--instruction", help=f"{', '.join(INSTRUCTIONS)}, or a text of your own")
    knows = create.add_mutually_exclusive_group()
    knows.add_argument("--knowledge", default="", metavar="TEXT", help="what it knows")
    knows.add_argument("--file", type=Path, help="a .txt, .md, .html or .pdf of what it knows")
    create.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PARAMETER=VALUE",
        type=_setting,
        help="a default of its answers, such as do_sample=false; may be given more than once",
    )
    show = add_command(bots, "show", _show_bot, "show a bot, as JSON")
    show.add_argument("bot")
    teach = add_command(bots, "teach", _teach_bot, "replace what a bot knows by a document")
    teach.add_argument("bot")
    teach.add_argument("file", type=Path)
    delete = add_command(bots, "delete", _delete_bot, "delete a bot and its sessions")
    delete.add_argument("bot")

    chat = add_command(groups, "chat", _chat, "talk to a bot: one message, or a conversation until Ctrl-D")
    chat.add_argument("bot")
    chat.add_argument("message", nargs="?", help="without it, a conversation")

    importer = groups.add_parser("import", help="bots of a JSON file of the old kind into this machine's database")
    importer.add_argument("file", type=Path)
    importer.add_argument("--replace", action="store_true", help="replace the knowledge of bots that exist already")

    copier = groups.add_parser("backup", help="copy this machine's SQLite database to a file, while it is used or not")
    copier.add_argument("file", type=Path)
    restorer = groups.add_parser("restore", help="put a backup in place of what this machine's SQLite database holds")
    restorer.add_argument("file", type=Path)

    keys = groups.add_parser("keys", help="list, create, rotate, revoke").add_subparsers(
        metavar="COMMAND", required=True
    )
    add_command(keys, "list", _list_keys, "list keys")
    new = add_command(keys, "create", _create_key, "make a key; prints it, this once")
    new.add_argument("--scope", choices=SCOPES, required=True)
    new.add_argument("--bot", action="append", help="a bot it is for; may be given more than once; without: all")
    new.add_argument("--name", default="", help="what it is for")
    new.add_argument("--days", type=float, help="how long it lives; without: for ever")
    rotate = add_command(keys, "rotate", _rotate_key, "make a key in place of another; prints it, this once")
    rotate.add_argument("key_id")
    rotate.add_argument("--overlap", type=int, default=86_400, metavar="SECONDS", help="how long the old one lives on")
    revoke = add_command(keys, "revoke", _revoke_key, "make a key worthless")
    revoke.add_argument("key_id")

    add_deploy(groups)
    return parser


def _setting(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not like do_sample=false or max_length=64") from None


def _list_bots(client: GatewayClient, _: argparse.Namespace) -> None:
    rows = [
        (bot["bot_id"], f"{bot['knowledge_characters']}", bot["updated_at"][:16].replace("T", " "), bot["name"])
        for bot in client.pages("bots", "bots")
    ]
    table(("BOT", "CHARACTERS", "CHANGED", "NAME"), rows)


def _create_bot(client: GatewayClient, command: argparse.Namespace) -> None:
    if command.file is not None and not command.file.is_file():
        raise CallFailed(f"{command.file} is no file")  # before there is a bot that knows nothing
    wanted = {
        "bot_id": command.bot,
        "name": command.name,
        "instruction": command.instruction,
        "knowledge": command.knowledge,
        "parameters": dict(command.set),
    }
    client.call("POST", "bots", json=wanted)
    print(f"created {command.bot}")
    if command.file is not None:
        _teach_bot(client, command)


def _teach_bot(client: GatewayClient, command: argparse.Namespace) -> None:
    shown = sys.stderr.isatty()

    def progress(sent: int, of: int) -> None:
        if shown:
            print(f"\ruploading {command.file.name}: {sent * 100 // of} %", end="", file=sys.stderr, flush=True)

    try:
        size = client.upload(command.bot, command.file, progress)
    finally:
        if shown:
            print(file=sys.stderr)
    print(f"{command.bot} knows {size['characters']} characters, {size['tokens']} tokens, {size['passages']} passages")


def _show_bot(client: GatewayClient, command: argparse.Namespace) -> None:
    print(json.dumps(client.call("GET", "bots", command.bot), indent=2, ensure_ascii=False))


def _delete_bot(client: GatewayClient, command: argparse.Namespace) -> None:
    client.call("DELETE", "bots", command.bot)
    print(f"deleted {command.bot}")


def _chat(client: GatewayClient, command: argparse.Namespace) -> None:
    if command.message is not None:
        _answer(client, command.bot, command.message, None)
        return
    session = client.call("POST", "bots", command.bot, "sessions")["session_id"]
    while True:
        try:
            message = input("> " if sys.stdin.isatty() else "")
        except EOFError:
            break
        if not message.strip():
            continue
        try:
            _answer(client, command.bot, message, session)
        except CallFailed as failure:  # the conversation can go on
            print(f"godel: {harmless(str(failure))}", file=sys.stderr)


def _answer(client: GatewayClient, bot: str, message: str, session: str | None) -> None:
    begun = False
    try:
        for part in client.chat(bot, message, session):
            if isinstance(part, str):
                print(harmless(part), end="", flush=True)
                begun = True
    finally:
        if begun:
            print()


def _list_keys(client: GatewayClient, _: argparse.Namespace) -> None:
    rows = [
        (
            key["key_id"],
            key["scope"],
            "all" if key["bots"] is None else ",".join(key["bots"]),
            (key["expires_at"] or "never")[:16].replace("T", " "),
            (key["last_used_at"] or "never")[:16].replace("T", " "),
            key["name"],
        )
        for key in client.pages("keys", "keys")
    ]
    table(("KEY", "SCOPE", "BOTS", "EXPIRES", "USED", "NAME"), rows)


def _create_key(client: GatewayClient, command: argparse.Namespace) -> None:
    wanted: dict[str, Any] = {"scope": command.scope, "bots": command.bot, "name": command.name}
    if command.days is not None:
        try:
            wanted["expires_at"] = (datetime.now(UTC) + timedelta(days=command.days)).isoformat()
        except OverflowError:
            raise CallFailed(f"{command.days} days is no time that a calendar holds") from None
    _show_token(client.call("POST", "keys", json=wanted))


def _rotate_key(client: GatewayClient, command: argparse.Namespace) -> None:
    _show_token(client.call("POST", "keys", command.key_id, "rotate", json={"overlap_seconds": command.overlap}))


def _show_token(made: dict[str, Any]) -> None:
    """Print the token alone on standard output, so that a script can take it."""
    print(f"key {made['key_id']}; it is not shown again:", file=sys.stderr)
    print(made["token"])


def _revoke_key(client: GatewayClient, command: argparse.Namespace) -> None:
    client.call("DELETE", "keys", command.key_id)
    print(f"revoked {command.key_id}")


if __name__ == "__main__":
    sys.exit(main())
