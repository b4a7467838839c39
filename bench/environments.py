"""Makes the environments that some rivals need beside `.venv`: `python -m bench.environments [NAME ...]`.

Each is `build/bench/envs/NAME`, from `requirements/bench-NAME.txt`; an environment that is there and was made from
the same file is left alone, and one that could not be made whole is removed.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
HOME: Final = ROOT / "build" / "bench" / "envs"
ENVIRONMENTS: Final = ("ctranslate2", "openvino")
_STAMP: Final = "requirements.txt"


def requirements(name: str) -> Path:
    """Return the file that lists what the environment `name` holds."""
    return ROOT / "requirements" / f"bench-{name}.txt"


def interpreter(name: str) -> Path:
    """Return the Python of the environment `name`, there or not."""
    return HOME / name / "bin" / "python"


def make(name: str) -> None:
    """Make the environment `name` unless it is there. Raises CalledProcessError; nothing is left then."""
    wanted, home = requirements(name).read_bytes(), HOME / name
    stamp = home / _STAMP
    if stamp.is_file() and stamp.read_bytes() == wanted:
        return
    print(f"creating {home.relative_to(ROOT)} ...", flush=True)
    shutil.rmtree(home, ignore_errors=True)
    try:
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        install = [str(interpreter(name)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, "-r", str(requirements(name))], check=True)
        stamp.write_bytes(wanted)
    except BaseException:
        shutil.rmtree(home, ignore_errors=True)
        raise


def main() -> None:
    """Make environments from the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.environments", description="Install what rivals need.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(ENVIRONMENTS)} (default: all)")
    options = parser.parse_args()
    for name in options.names or ENVIRONMENTS:
        if name not in ENVIRONMENTS:
            sys.exit(f"environments: {name} is not known; use {' or '.join(ENVIRONMENTS)}")
        try:
            make(name)
        except subprocess.CalledProcessError as error:
            sys.exit(f"environments: {name} could not be made: {Path(str(error.cmd[0])).name} said why above")


if __name__ == "__main__":
    main()
