"""What the project is made of is written down, agrees with the locks, and is looked at for known weaknesses."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from requirements import supply_chain
from requirements.supply_chain import LICENCES, LOCKS, NOTES, SBOM, UNREACHABLE, pins

ROOT = Path(__file__).parents[2]


def test_the_licences_are_those_of_the_locks_and_copyleft_is_marked() -> None:
    text = LICENCES.read_text(encoding="utf-8")
    marked, _, everything = text.partition("## All")
    rows = re.findall(r"^\| ([\w.-]+) \| ([^|]+) \| (.+) \|$", everything, re.MULTILINE)
    listed = {name: version for name, version, _ in rows if name not in ("package", "---")}
    assert listed == pins(*LOCKS), "run `make licences`"
    copyleft = {name for name, _, licence in rows if supply_chain.COPYLEFT.search(licence)}
    assert copyleft == NOTES.keys() == set(re.findall(r"^\| ([\w.-]+) \| .*(?:GPL|MPL)", marked, re.MULTILINE))
    assert "UNKNOWN" not in text


def test_every_lock_says_exactly_what_it_wants() -> None:
    for lock in (*LOCKS, "dev", "audit"):
        text = (ROOT / "requirements" / f"{lock}.txt").read_text(encoding="utf-8")
        lines = [line for line in text.splitlines() if line and not line.startswith("#")]
        assert all(re.fullmatch(r"[\w.-]+==[\w.+!]+", line) for line in lines), lock
    everything = pins("dev")
    for lock in LOCKS:
        assert pins(lock).items() <= everything.items(), f"{lock}.txt and dev.txt disagree; run `make lock`"


ANSWERS = {
    "none known": ({"name": "a", "version": "1", "vulns": []}, 0, "1 packages"),
    "one known": ({"name": "a", "version": "1", "vulns": [{"id": "X-1", "fix_versions": ["2"]}]}, 1, "X-1, fixed in 2"),
    "unknown to the index": ({"name": "a", "skip_reason": "not found"}, UNREACHABLE, "NOTHING WAS CHECKED"),
    "no answer": (None, UNREACHABLE, "NOTHING WAS CHECKED"),
}


@pytest.mark.parametrize(("package", "status", "said"), ANSWERS.values(), ids=ANSWERS.keys())
def test_an_audit_that_checked_nothing_never_passes_for_one_that_found_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], package: object, status: int, said: str
) -> None:
    answer = "" if package is None else json.dumps({"dependencies": [package]})
    done = subprocess.CompletedProcess([], 0, answer, "ConnectionError: no route")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    assert supply_chain.audit() == status
    assert said in "".join(capsys.readouterr())


@pytest.mark.skipif(
    not (ROOT / ".venv" / "audit" / ".installed").is_file(), reason="`make sbom` once installs the tool that writes it"
)
def test_the_bill_of_materials_is_valid_cyclonedx_and_holds_the_locks() -> None:
    SBOM.unlink(missing_ok=True)
    subprocess.run(["make", "--silent", "sbom"], cwd=ROOT, check=True, timeout=100)  # noqa: S607 - the make in PATH
    bill = json.loads(SBOM.read_text(encoding="utf-8"))
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert bill["metadata"]["component"]["name"] == "godel-serve"
    assert {part["name"]: part["version"] for part in bill["components"]} == pins(*LOCKS)
    assert all(part["purl"].startswith(f"pkg:pypi/{part['name']}@") for part in bill["components"])
