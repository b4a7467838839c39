"""`python -m launcher serve` and `python -m launcher stop`."""

import argparse
import sys

from launcher.pidfile import stop_serving
from launcher.serve import PIDFILE, serve


def main() -> int:
    """Run the command named on the command line; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m launcher", description="Start or stop a served bot.")
    parser.add_argument("command", choices=("serve", "stop"))
    return serve() if parser.parse_args().command == "serve" else stop_serving(PIDFILE)


if __name__ == "__main__":
    sys.exit(main())
