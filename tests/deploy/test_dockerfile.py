"""The Dockerfile keeps its promises: pinned, small, nobody's account, and it copies no more than it needs."""

import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from launcher.properties import ROOT
from tests.deploy.image import DOCKERFILE, instructions, read_images

IMAGES = read_images()
FINAL = ["gateway", "torchserve", "model"]


def test_hadolint_has_nothing_to_say() -> None:
    tool = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([tool, "--strict-labels", DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_a_base_is_an_exact_version_or_a_stage() -> None:
    defaults = dict(
        argument.split("=", 1) for name, argument in instructions() if name == "ARG" and "_IMAGE=" in argument
    )
    assert all(re.fullmatch(r"[a-z]+:\d+\.\d+\.\d+-[a-z-]+", image) for image in defaults.values())
    stages: set[str] = set()
    for name, argument in instructions():
        if name == "FROM":
            base, _, stage = argument.split()
            assert base in stages or base.strip("${}") in defaults
            stages.add(stage)


@pytest.mark.parametrize("name", FINAL)
def test_an_image_runs_as_nobody_in_particular(name: str) -> None:
    assert IMAGES[name].user == "10001:10001", "a number, by which Kubernetes can tell that it is not root"
    assert [step for step in IMAGES[name].instructions if step[0] in ("USER", "ENTRYPOINT", "CMD")][-1]
    last_user = max(index for index, (step, _) in enumerate(IMAGES[name].instructions) if step == "USER")
    assert not any(step in ("RUN", "COPY") for step, _ in IMAGES[name].instructions[last_user:])


@pytest.mark.parametrize("name", FINAL)
def test_a_process_gets_its_signals_itself(name: str) -> None:
    for step, argument in IMAGES[name].instructions:
        if step in ("ENTRYPOINT", "CMD"):
            assert argument.startswith("["), "a shell would be the first process, and keep SIGTERM"
    assert any(step == "HEALTHCHECK" for step, _ in IMAGES[name].instructions)


@pytest.mark.parametrize("name", FINAL)
def test_an_image_has_no_tools_to_build_with(name: str) -> None:
    for step, argument in IMAGES[name].instructions:
        assert not (step == "RUN" and re.search(r"pip.* install|apt-get|apk add", argument))
    if name != "model":  # which is busybox
        assert any(step == "RUN" and "pip uninstall" in argument for step, argument in IMAGES[name].instructions)


def test_the_gateway_has_no_torch() -> None:
    [packages] = [argument for step, argument in IMAGES["gateway"].instructions if "/opt/venv /opt/venv" in argument]
    assert "--from=gateway-packages" in packages
    locks = " ".join(argument for step, argument in IMAGES["gateway-packages"].instructions if step == "COPY")
    for lock in re.findall(r"requirements/\S+\.txt", locks):
        assert not re.search(r"^(torch|transformers|onnxruntime|numpy)\b", (ROOT / lock).read_text(), re.MULTILINE)


def test_what_is_copied_reaches_the_build_and_little_else_does() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*", "what is not named stays out"
    named = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = {source for image in IMAGES.values() for source, _ in image.copies}
    assert all((ROOT / source).exists() for source in copied)
    assert {Path(source).parts[0] for source in copied} == named
    for secret in (".env", "deploy/.env", ".git", "state/godel.db", "model_store/godel.mar"):
        assert not any(fnmatch(secret, name) or secret.startswith(f"{name}/") for name in named)
