"""Documented commands that cannot run in the scratch checkout, and the tests that run what they stand for."""

import ast
import re
from typing import Final

from tests.docs.blocks import ROOT, one_line, uncommented

SERVE: Final = (
    "tests/e2e/test_serve.py::test_serve_prints_a_line_to_try_that_works_drains_on_sigterm_and_leaves_no_process"
)
ARCHIVE: Final = "tests/training/test_archive_command.py::test_what_is_said_comes_before_what_is_remembered"

RECIPE: Final = "tests/training/test_recipe.py::test_the_small_recipe_ends_with_models_that_beat_both_baselines"
CLUSTER: Final = "tests/cluster/test_cluster.py::"
ROLLOUT: Final = f"{CLUSTER}test_a_new_version_takes_over_by_and_by_and_back_without_losing_a_request"

ELSEWHERE: Final[dict[str, tuple[str, ...]]] = {
    r"make serve": (SERVE,),
    r"make serve MODEL=\S+": (SERVE, ARCHIVE),
    r"make archive MODEL=models/embedded PRECISION=\w+": (ARCHIVE,),
    r"\.venv/bin/python -m training\.finetune .*--lora_rank .*": (
        "tests/training/test_finetune.py::test_low_rank_adapters_are_merged_into_a_whole_model",
    ),
    r"make stop": ("tests/launcher/test_pidfile.py::test_stop_ends_the_server_and_waits_for_it",),
    r"make train": (RECIPE,),
    r"\.venv/bin/python -m training\.(export|student) .*": (RECIPE,),
    r"\S*godel deploy (list|weight|promote|rollback|remove|add 2).*": (ROLLOUT,),
    r"\S*godel deploy add default.*": (f"{CLUSTER}test_a_second_model_server_shares_the_load",),
    r"LISTEN=\S+ .*haproxy .*": (ROLLOUT,),
    r"\.venv/bin/torchrun .*-m training\.finetune .*": (
        "tests/training/test_finetune.py::test_two_processes_train_as_one_with_twice_the_batch",
    ),
    r"(pg_dump|pg_restore|psql) .*": (
        "tests/gateway/test_backup.py::test_the_documented_commands_copy_a_postgresql_database_and_put_it_back",
    ),
}
"""A command's pattern, and the tests (file::function) that run it or what it starts."""

HERE: Final = frozenset({"archive", "help"})
"""The targets of make that the scratch checkout runs; all others start servers, train or install."""

BEYOND: Final = frozenset(
    {
        *("docker", "docker-compose", "podman", "kubectl", "kustomize", "helm", "kind", "minikube"),
        *("sudo", "apt", "apt-get", "systemctl", "pip", "pip3", "git", "ssh", "scp", "nvidia-smi", "torchrun"),
    }
)
"""Programs that reach beyond the scratch checkout: a block with one is marked, or the command has its test."""

_BEFORE: Final = frozenset({"do", "then", "else", "if", "while", "until", "!", "time", "exec", "nohup", "env", "nice"})
"""What may stand before a program's name."""


def run_by(command: str) -> tuple[str, ...]:
    """Return the tests that run `command` elsewhere; none where it is to be run here."""
    line = one_line(command)
    return next((tests for pattern, tests in ELSEWHERE.items() if re.fullmatch(pattern, line)), ())


def reaches_beyond(command: str) -> str | None:
    """Return what in `command` the scratch checkout must not run, None where there is nothing."""
    for part in re.split(r"&&|\|\||[;|\n]", uncommented(command)):
        words = [word for word in part.split() if "=" not in word or word.startswith("-")]
        while words and words[0] in _BEFORE:
            words.pop(0)
        if not words:
            continue
        program = words[0].rpartition("/")[2]
        if program in BEYOND:
            return program
        if program == "make" and not set(words[1:]) <= HERE:
            return f"make {' '.join(words[1:])}"
    return None


def is_there(test: str) -> bool:
    """Return whether a test of that name, file::function, is in the repository."""
    path, _, name = test.partition("::")
    if not (ROOT / path).is_file():
        return False
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name for node in tree.body)
