"""Every shell block of the documents runs, is marked as needing what tests have not, or is run by a test by name.

A block runs in a scratch checkout (conftest.py) as it stands; only ports and keys are those of the servers under
test. What says the same thing again, as `make archive` with the same choices, is run once.
"""

import pytest

from launcher.torchserve import TorchServe
from tests.docs.blocks import MARKS, Block, commands, complete, one_line, read_blocks, shell_blocks
from tests.docs.conftest import Scratch
from tests.docs.elsewhere import ELSEWHERE, is_there, reaches_beyond, run_by

pytestmark = pytest.mark.timeout(420)  # the first block also waits for the servers

BLOCKS = shell_blocks()
MANAGEMENT = "http://127.0.0.1:8081"
HOW = f"""
  - run as it stands: every command ends with status 0 in a scratch checkout (tests/docs/conftest.py), with a gateway
    at http://127.0.0.1:8000 and TorchServe at 8080, 8081 and 8082;
  - marked, where it needs what tests have not, by a line before it: <!-- needs: WHAT -->, of {", ".join(MARKS)};
  - run by another test: a pattern of the command and the test's name in tests/docs/elsewhere.py."""

_done: set[str] = set()
"""Commands that make the same files whenever they run, and have."""


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.mark is None], ids=str)
def test_a_documented_block_works(block: Block, scratch: Scratch, request: pytest.FixtureRequest) -> None:
    here = [command for command in commands(block.text) if not run_by(command) and one_line(command) not in _done]
    for command in here:
        beyond = reaches_beyond(command)
        assert not beyond, f"{block}: `{beyond}` is nothing that a test may run as it stands. A shell block is{HOW}"
    if not here:
        return
    if "GODEL_ADMIN_KEY" in block.text or "GODEL_API_KEY" in block.text:
        scratch = request.getfixturevalue("guarded")
    if MANAGEMENT in block.text:
        torchserve: TorchServe = request.getfixturevalue("open_torchserve")
        scratch.addresses[MANAGEMENT] = torchserve.management_url
    done = scratch.run(here)
    failed = "\n".join(line for line in done.stderr.splitlines() if line.startswith("FAILED: command "))
    number = int(failed.rpartition(" ")[2]) if failed else 0
    command = here[number - 1] if number else block.text
    assert done.returncode == 0, (
        f"{block}: this command failed with status {done.returncode}:\n\n{command}\n\n"
        f"{done.stdout[-1500:]}{done.stderr[-3000:]}\n\nA shell block is{HOW}"
    )
    _done.update(line for line in map(one_line, here) if line.startswith(("make archive", ".venv/bin/python -m")))


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.mark is not None], ids=str)
def test_a_marked_block_is_sound_and_says_what_it_needs(block: Block) -> None:
    assert block.mark in MARKS, f"{block}: `needs: {block.mark}` is not one of {', '.join(MARKS)}"
    assert complete(block.text), f"{block}: bash does not understand it"


def test_the_documents_have_blocks_of_both_kinds_and_all_are_found() -> None:
    assert len([block for block in BLOCKS if block.mark is None]) >= 8
    assert {block.path for block in BLOCKS} >= {"README.md", "docs/operate.md", "docs/api.md", "docs/train.md"}


def test_each_command_of_the_table_is_in_a_document_and_each_of_its_tests_is_there() -> None:
    written = [command for block in BLOCKS for command in commands(block.text)]
    used = {pattern for pattern in ELSEWHERE if any(run_by(command) == ELSEWHERE[pattern] for command in written)}
    assert sorted(set(ELSEWHERE) - used) == [], "no document has such a command any more: take it out of elsewhere.py"
    missing = [test for tests in ELSEWHERE.values() for test in tests if not is_there(test)]
    assert missing == []


def test_blocks_are_found_with_their_marks_in_lists_and_beside_other_languages() -> None:
    text = (
        "<!-- needs: gpu -->\n\n```sh\nnvidia-smi\n```\n\n```json\n{}\n```\n1. so\n"
        "   ```bash\n   echo 'a\n   b'\n   ```\ntext\n```\nno language\n```\n"
    )
    blocks = list(read_blocks("a.md", text))
    assert [(block.line, block.text, block.mark) for block in blocks] == [
        (3, "nvidia-smi", "gpu"),
        (11, "echo 'a\nb'", None),
    ]
    with pytest.raises(ValueError, match=r"a\.md:1: this block is never closed"):
        list(read_blocks("a.md", "```sh\necho\n"))


def test_commands_are_told_apart_as_bash_does() -> None:
    text = (
        "# a comment\ncurl -s \\\n  -d '{\"a\":\n 1}' http://x\nfor n in 1 2; do\n  echo $n\ndone\n"
        "cat <<E\nx\nE\necho ok"
    )
    assert [one_line(command) for command in commands(text)] == [
        "curl -s -d '{\"a\": 1}' http://x",
        "for n in 1 2; do echo $n done",
        "cat <<E x E",
        "echo ok",
    ]
    with pytest.raises(ValueError, match="does not understand: echo 'open"):
        commands("echo 'open")


@pytest.mark.parametrize(
    ("command", "beyond"),
    [
        ("kubectl apply -k deploy/kubernetes", "kubectl"),
        ("cd build && docker compose up", "docker"),
        ("for host in a b; do\n  ssh $host true\ndone", "ssh"),
        (".venv/bin/pip install -r requirements/tracing.txt", "pip"),
        ("PORT=1 make test", "make test"),
        ("make archive PRECISION=int4  # four bits", None),
        ("make", None),
        ("curl -s http://127.0.0.1:8000/v1/bots | head -c 100", None),
    ],
)
def test_what_reaches_beyond_the_scratch_checkout_is_seen(command: str, beyond: str | None) -> None:
    assert reaches_beyond(command) == beyond


def test_a_failing_command_is_told_by_its_number(scratch: Scratch) -> None:
    done = scratch.run(["true", "echo first", "curl -s http://127.0.0.1:8000/v1/bots/nobody", "echo never"])
    assert done.returncode != 0
    assert "FAILED: command 3" in done.stderr
    assert "never" not in done.stdout
