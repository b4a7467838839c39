"""deploy/compose.yaml: valid by the specification's schema, confined, and nothing but the gateway published."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.settings import Settings
from launcher import foreground, torchserve
from launcher.properties import ROOT
from tests.deploy.image import read_images
from tests.deploy.manifests import pods

DEPLOY = ROOT / "deploy"
FILES = [DEPLOY / "compose.yaml", DEPLOY / "compose.grafana.yaml"]
COMPOSE: dict[str, Any] = yaml.safe_load(FILES[0].read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
IMAGES = read_images()


def test_the_files_are_what_the_compose_specification_allows(tmp_path: Path) -> None:
    tool = Path(sys.executable).with_name("check-jsonschema")
    command: list[str | Path] = [tool, "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, *FILES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(FILES[0].read_text(encoding="utf-8").replace("mem_limit", "mem_limt"))
    assert subprocess.run([*command, wrong], capture_output=True, check=False).returncode != 0


def test_the_gateway_alone_is_published_and_on_this_machine_alone() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"gateway": ["127.0.0.1:${GATEWAY_PORT:-8000}:8000"]}
    assert [name for name, network in COMPOSE["networks"].items() if not network.get("internal")] == ["front"]
    assert [name for name, service in SERVICES.items() if "front" in service.get("networks", [])] == ["gateway"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_confined_and_bounded(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"mem_limit", "cpus", "pids_limit"} <= service.keys()
    stage = IMAGES.get(name)
    user = service.get("user") or (stage.user if stage else "0")
    assert int(user.partition(":")[0]) > 0
    if name != "model":  # which ends at once
        assert "healthcheck" in service or (stage and stage.healthcheck)


@pytest.mark.parametrize("name", SERVICES)
def test_an_image_has_an_exact_version(name: str) -> None:
    image, _, tag = SERVICES[name]["image"].partition(":")
    assert re.fullmatch(r"v?\d+\.\d+(\.\d+)?(-alpine)?", tag)
    if "build" in SERVICES[name]:
        assert image == f"godel-serve/{name}"
        assert SERVICES[name]["build"] == {"context": "..", "target": name}
        assert name in IMAGES
        [version] = {each["image"].partition(":")[2] for pod in pods("cpu") for each in pod.all_containers}
        assert tag == version, "Kubernetes and Compose run the same version"


def test_the_gateway_takes_the_settings_it_is_given() -> None:
    known = {f"GODEL_{name.upper()}" for name in Settings.model_fields}
    assert SERVICES["gateway"]["environment"].keys() <= known


def test_the_example_names_every_variable_that_has_no_default() -> None:
    text = FILES[0].read_text(encoding="utf-8")
    wanted = set(re.findall(r"\$\{(\w+)(?::\?[^}]*)?\}", text))
    wanted |= {secret["environment"] for secret in COMPOSE["secrets"].values()}
    example = (DEPLOY / "compose.env.example").read_text(encoding="utf-8")
    given = dict(line.split("=", 1) for line in example.splitlines() if line and not line.startswith("#"))
    assert given.keys() == wanted
    assert set(given.values()) == {""}, "no secret has a default"


def test_what_is_mounted_exists() -> None:
    for name, service in SERVICES.items():
        for mount in service.get("volumes", []):
            source = mount.partition(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).exists(), f"{name}: {mount}"
            else:
                assert source in COMPOSE["volumes"]
        assert set(service.get("secrets", [])) <= COMPOSE["secrets"].keys()


def test_dependencies_can_be_met() -> None:
    for service in SERVICES.values():
        for other, wish in service.get("depends_on", {}).items():
            one_off = SERVICES[other]["restart"] == "no"
            assert wish["condition"] == ("service_completed_successfully" if one_off else "service_healthy")


def test_a_process_gets_the_time_that_its_end_takes() -> None:
    def seconds(name: str) -> int:
        return int(SERVICES[name]["stop_grace_period"].removesuffix("s"))

    own = SERVICES["gateway"]["environment"]
    assert seconds("gateway") > int(own["GODEL_SHUTDOWN_GRACE"]) >= Settings.model_fields["request_timeout"].default
    assert seconds("torchserve") > foreground.GRACE_SECONDS + torchserve.STOP_SECONDS


def test_torchserve_may_write_where_its_image_wants_to() -> None:
    [mount] = SERVICES["torchserve"]["tmpfs"]
    place, _, options = mount.partition(":")
    assert place in IMAGES["torchserve"].command
    user, _, group = IMAGES["torchserve"].user.partition(":")
    assert {f"uid={user}", f"gid={group}"} <= set(options.split(","))
