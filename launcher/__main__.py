"""`python -m launcher serve`, `stop` and `status`."""

import argparse
import sys
from pathlib import Path

from launcher.pidfile import stop_serving
from launcher.properties import CONFIG
from launcher.serve import PIDFILE, RUN_DIR, serve, status


def main() -> int:
    """Run the command named on the command line; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m launcher", description="Serve bots from this checkout.")
    parser.add_argument("command", choices=("serve", "stop", "status"))
    parser.add_argument("--run-dir", type=Path, default=RUN_DIR, help="where the instance writes (build/run)")
    parser.add_argument("--config", type=Path, default=CONFIG, help="TorchServe's settings (config.properties)")
    options = parser.parse_args()
    match options.command:
        case "serve":
            return serve(options.run_dir, options.config)
        case "stop":
            return stop_serving(options.run_dir / PIDFILE)
        case _:
            return status(options.run_dir)


if __name__ == "__main__":
    sys.exit(main())
