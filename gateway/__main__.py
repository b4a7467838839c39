"""`python -m gateway` serves; `import`, `backup` and `restore` work on the database of this machine."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.settings import Settings


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit status. What goes wrong is one line on standard error."""
    parser = _parser()
    first = next(iter(sys.argv[1:] if arguments is None else arguments), "")
    if first.startswith("-") and first not in ("-h", "--help"):  # argparse would call its value an unknown command
        parser.error(f"there is no option {first}: settings come from GODEL_… variables, such as GODEL_PORT=8080")
    command = parser.parse_args(arguments)
    from pydantic import ValidationError

    from gateway.errors import GatewayError
    from gateway.settings import Settings

    try:
        settings = Settings()
        if command.name == "import":
            print(_import(settings, command.file, replace=command.replace))
        elif command.name == "backup":
            from gateway.backup import back_up

            print(f"wrote {command.file}, {back_up(settings.database_url, command.file)} bytes")
        elif command.name == "restore":
            from gateway.backup import restore

            print(f"restored {restore(settings.database_url, command.file)} bytes from {command.file}")
        else:
            from gateway.server import serve

            serve(settings)
    except ValidationError as error:
        problems = (
            f"GODEL_{item['loc'][0]}".upper() + f": {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors()
        )
        return _failed("; ".join(problems))
    except GatewayError as error:
        return _failed(error.detail)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gateway", description="Serve bots over HTTP. Settings come from GODEL_… variables."
    )
    commands = parser.add_subparsers(dest="name", metavar="COMMAND")
    commands.add_parser("serve", help="serve (what happens without a command too)")
    importer = commands.add_parser("import", help="import bots from a JSON file of the old kind, all or none")
    importer.add_argument("file", type=Path, help="bots.json")
    importer.add_argument("--replace", action="store_true", help="replace the knowledge of bots that exist already")
    copier = commands.add_parser("backup", help="copy the SQLite database to a file, while it is used or not")
    copier.add_argument("file", type=Path, help="a file that is not there yet")
    restorer = commands.add_parser("restore", help="put a backup in place of all that the SQLite database holds")
    restorer.add_argument("file", type=Path, help="what `backup` wrote")
    return parser


def _import(settings: "Settings", file: Path, *, replace: bool) -> str:
    import asyncio

    from gateway.bots import BotRules
    from gateway.bots_file import import_file

    return asyncio.run(
        import_file(file, settings.database_url, BotRules(settings.max_knowledge_characters), replace=replace)
    )


def _failed(reason: str) -> int:
    print(f"gateway: {' '.join(reason.split())}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
