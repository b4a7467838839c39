"""What holds for every pod and every reference between manifests, whichever overlay."""

import json
import os
import re
from typing import Any

import pytest
import yaml

from gateway.settings import Settings
from launcher import foreground, torchserve
from launcher.properties import ROOT, read_properties
from tests.deploy.image import read_images
from tests.deploy.manifests import KUBERNETES, OVERLAYS, everything, of_kind, pods, selects

IMAGES = read_images()
PODS = [pytest.param(pod, id=pod.owner) for overlay in OVERLAYS for pod in pods(overlay)]
PLACES = {
    "Service": ["spec", "selector"],
    "Deployment": ["spec", "selector", "matchLabels"],
    "PodDisruptionBudget": ["spec", "selector", "matchLabels"],
}
BASE = {"canary": "cpu"}
"""Overlays that stand beside another one, whose policies hold for them."""


def variables(container: dict[str, Any], overlay: str) -> dict[str, Any]:
    """Return the environment of a container, what is secret as the reference to it."""
    maps = {each["metadata"]["name"]: each["data"] for each in of_kind(overlay, "ConfigMap")}
    found: dict[str, Any] = {}
    for source in container.get("envFrom", []):
        found |= maps[source["configMapRef"]["name"]]
    return found | {each["name"]: each.get("value", each.get("valueFrom")) for each in container.get("env", [])}


def image_of(container: dict[str, Any]) -> str:
    """Return the stage of the Dockerfile that a container runs."""
    return str(container["image"]).rpartition("/")[2].partition(":")[0].removesuffix("-gpu")


@pytest.mark.parametrize("pod", PODS)
def test_a_pod_is_confined(pod: Any) -> None:
    context = pod.pod_context["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod.pod_context["automountServiceAccountToken"] is False
    assert pod.pod_context["enableServiceLinks"] is False, "a Service called godel would set GODEL_PORT"
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.spec.keys()
    assert not any("hostPath" in volume for volume in pod.spec["volumes"])
    for container in pod.all_containers:
        own = container["securityContext"]
        assert own["allowPrivilegeEscalation"] is False
        assert own["readOnlyRootFilesystem"] is True
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert own.get("privileged", False) is False
        image = IMAGES[image_of(container)]
        assert image.user == f"{context['runAsUser']}:{context['runAsGroup']}"


@pytest.mark.parametrize("pod", PODS)
def test_a_container_is_bounded_and_probed(pod: Any) -> None:
    for container in pod.all_containers:
        resources = container["resources"]
        assert {"cpu", "memory"} <= resources["limits"].keys()
        assert {"cpu", "memory"} <= resources["requests"].keys()
    for container in pod.containers:
        assert {"startupProbe", "readinessProbe", "livenessProbe", "lifecycle"} <= container.keys()
    assert all("sizeLimit" in volume["emptyDir"] for volume in pod.spec["volumes"] if "emptyDir" in volume)


@pytest.mark.parametrize("pod", PODS)
def test_probes_and_mounts_name_what_is_there(pod: Any) -> None:
    volumes = {volume["name"] for volume in pod.spec["volumes"]}
    for container in pod.all_containers:
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    for container in pod.containers:
        ports = {port["name"] for port in container["ports"]}
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = container[kind]
            assert probe["timeoutSeconds"] > 0
            if "httpGet" in probe:
                assert probe["httpGet"]["port"] in ports


@pytest.mark.parametrize("pod", PODS)
def test_a_pod_gets_the_time_that_its_end_takes(pod: Any) -> None:
    [container] = pod.containers
    wait = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    if image_of(container) == "gateway":
        overlay = pod.owner.partition(":")[0]
        own = variables(container, overlay)
        grace = int(own["GODEL_SHUTDOWN_GRACE"])
        assert grace >= float(own["GODEL_REQUEST_TIMEOUT"]), "a request that is let in could be cut off"
        end = 5.0
    else:
        [grace] = [int(arg.partition("=")[2]) for arg in container["args"] if arg.startswith("--grace=")]
        assert grace >= Settings.model_fields["request_timeout"].default
        assert grace >= foreground.GRACE_SECONDS
        end = torchserve.STOP_SECONDS
    assert pod.pod_context["terminationGracePeriodSeconds"] >= wait + grace + end


@pytest.mark.parametrize("pod", [pod for pod in PODS if "gateway" in str(pod.id)])
def test_the_gateway_takes_the_settings_it_is_given(pod: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    [container] = pod.containers
    given = {**IMAGES["gateway"].environment, **variables(container, pod.owner.partition(":")[0])}
    own = {name: value for name, value in given.items() if name.startswith("GODEL_")}
    known = {f"GODEL_{name.upper()}" for name in Settings.model_fields}
    assert own.keys() <= known, "pydantic ignores what it does not know: a misspelt setting would do nothing"
    secret = {name for name, value in own.items() if isinstance(value, dict)}
    assert secret == {"GODEL_ADMIN_KEY", "GODEL_DATABASE_URL", "GODEL_REDIS_URL"}
    for name in list(os.environ):
        if name.startswith("GODEL_"):
            monkeypatch.delenv(name)
    for name, value in own.items():
        secrets = {"GODEL_REDIS_URL": "redis://redis:6379"}
        monkeypatch.setenv(name, secrets.get(name, "k" * 32) if name in secret else value)
    settings = Settings()
    assert settings.host == "0.0.0.0"  # noqa: S104 - the pod's address
    assert settings.keep_connections is False


def test_every_setting_that_a_document_names_exists() -> None:
    known = {f"GODEL_{name.upper()}" for name in Settings.model_fields} | {"GODEL_URL", "GODEL_API_KEY"}
    files = [*(ROOT / "deploy").rglob("*"), ROOT / "Dockerfile", ROOT / "docs/kubernetes.md"]
    for file in files:
        if file.is_file():
            named = set(re.findall(r"\bGODEL_[A-Z_]+[A-Z]\b", file.read_text(encoding="utf-8")))
            assert named <= known, file


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_selectors_find_pods_and_templates_match_their_own(overlay: str) -> None:
    labels = [pod.labels for pod in pods(overlay)]
    for manifest in of_kind(overlay, *PLACES):
        selector: Any = manifest
        for step in PLACES[manifest["kind"]]:
            selector = selector[step]
        found = [each for each in labels if selects(selector, each)]
        assert found, f"{manifest['kind']} {manifest['metadata']['name']} selects nothing"
        assert len(found) == 1, f"{manifest['kind']} {manifest['metadata']['name']} selects pods of two kinds"
        if manifest["kind"] == "Deployment":
            assert selects(selector, manifest["spec"]["template"]["metadata"]["labels"])


def test_the_canary_is_apart_from_what_serves() -> None:
    stable, canary = ([pod for pod in pods(overlay) if "torchserve" in pod.owner] for overlay in ("cpu", "canary"))
    for service in of_kind("cpu", "Service"):
        assert not any(selects(service["spec"]["selector"], pod.labels) for pod in canary)
    for service in of_kind("canary", "Service"):
        assert not any(selects(service["spec"]["selector"], pod.labels) for pod in stable)
    names = [
        {each["metadata"]["name"] for each in of_kind(overlay, "Service", "Deployment")}
        for overlay in ("cpu", "canary")
    ]
    assert not names[0] & names[1]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_services_lead_to_ports_that_pods_open(overlay: str) -> None:
    for service in of_kind(overlay, "Service"):
        for pod in pods(overlay):
            if selects(service["spec"]["selector"], pod.labels):
                open_ports = {port["name"] for each in pod.containers for port in each["ports"]}
                assert {port["targetPort"] for port in service["spec"]["ports"]} <= open_ports


@pytest.mark.parametrize("pod", PODS)
def test_ports_are_those_that_the_processes_listen_on(pod: Any) -> None:
    properties = read_properties(ROOT / "config.properties")
    for container in pod.containers:
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        stage = image_of(container)
        if stage == "gateway":
            assert ports == {"http": int(IMAGES[stage].environment["GODEL_PORT"])}
        else:
            assert ports == {
                name: int(properties[f"{name}_address"].rpartition(":")[2])
                for name in ("inference", "management", "metrics")
            }
        assert sorted(ports.values()) == IMAGES[stage].ports


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_gateway_looks_for_torchserve_where_its_service_is(overlay: str) -> None:
    for settings in of_kind(overlay, "ConfigMap"):
        [service] = [each for each in of_kind(overlay, "Service") if each["metadata"]["name"] == "torchserve"]
        ports = {port["name"]: port["port"] for port in service["spec"]["ports"]}
        for name in ("inference", "management"):
            assert settings["data"][f"GODEL_{name.upper()}_URL"] == f"http://torchserve:{ports[name]}"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_one_version_runs_and_one_file_says_which(overlay: str) -> None:
    [component] = [file for file in KUBERNETES.rglob("*.yaml") if file.parent.name == "images"]
    tags = {each["name"]: each["newTag"] for each in yaml.safe_load(component.read_text())["images"]}
    assert len(set(tags.values())) == 1
    for pod in pods(overlay):
        for container in pod.all_containers:
            image, _, tag = container["image"].partition(":")
            expected = tags[image.removesuffix("-gpu")]
            if overlay == "canary" and image.endswith("/model"):
                assert tag != expected, "a canary is another version of the model"
            else:
                assert tag == expected
    others = [file for file in KUBERNETES.rglob("*.yaml") if file != component and "canary" not in file.parts]
    assert not any("newTag" in file.read_text() for file in others)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nothing_is_reached_that_no_policy_names(overlay: str) -> None:
    policies = of_kind(BASE.get(overlay, overlay), "NetworkPolicy")
    by_name = {each["metadata"]["name"]: each["spec"] for each in policies}
    assert by_name["deny-by-default"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for pod in pods(overlay):
        [own] = [
            spec
            for spec in by_name.values()
            if spec["podSelector"] and selects(spec["podSelector"]["matchLabels"], pod.labels)
        ]
        assert own["policyTypes"] == ["Ingress", "Egress"]
        if image_of(pod.containers[0]) != "torchserve":
            continue
        assert "egress" not in own
        for rule in own["ingress"]:
            ports = {port["port"] for port in rule["ports"]}
            [source] = rule["from"]
            if ports & {"inference", "management"}:
                assert source == {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "gateway"}}}
            else:
                assert ports == {"metrics"}


def test_gateways_may_leave_for_their_servers_and_names_alone() -> None:
    [spec] = [each["spec"] for each in of_kind("cpu", "NetworkPolicy") if each["metadata"]["name"] == "gateway"]
    ports = sorted({port["port"] for rule in spec["egress"] for port in rule["ports"]})
    assert ports == [53, 5432, 6379, 8080, 8081]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_autoscaler_scales_what_is_there_and_is_not_set_back(overlay: str) -> None:
    made = {f"{each['metadata']['name']}-predictor" for each in of_kind(overlay, "InferenceService")}
    deployments = {each["metadata"]["name"]: each["spec"] for each in of_kind(overlay, "Deployment")}
    for scaler in of_kind(overlay, "HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]["name"]
        assert target in deployments.keys() | made
        assert "replicas" not in deployments.get(target, {})


@pytest.mark.parametrize("pod", [pod for pod in PODS if "gateway" not in str(pod.id)])
def test_a_worker_has_whole_cores_and_as_many_as_it_asks_for(pod: Any) -> None:
    [container] = pod.containers
    cores = container["resources"]["limits"]["cpu"]
    assert cores == container["resources"]["requests"]["cpu"]
    assert str(cores).isdecimal(), "it starts a thread for each"


def test_a_gpu_is_asked_for_where_the_model_wants_one() -> None:
    [pod] = [pod for pod in pods("gpu") if "torchserve" in pod.owner]
    [container] = pod.containers
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert {image["image"].partition(":")[0] for image in pod.all_containers} == {
        "godel-serve/torchserve-gpu",
        "godel-serve/model-gpu",
    }
    # By the image's own build arguments: the engine for GPUs, the device, PyTorch's CUDA build.
    assert {"ENGINE", "DEVICE", "TORCH_INDEX"} <= {
        argument.partition("=")[0] for name, argument in IMAGES["archive"].instructions if name == "ARG"
    }


def test_commands_in_pods_are_those_of_the_images() -> None:
    for overlay in OVERLAYS:
        for pod in pods(overlay):
            for container in pod.containers:
                assert "command" not in container, "the image's entrypoint gets SIGTERM; a shell would keep it"
                probe = container["startupProbe"].get("exec")
                if probe:
                    image = IMAGES[image_of(container)]
                    assert " ".join(probe["command"]).replace("=", " ") == " ".join(image.healthcheck)
                    options = [arg.partition("=")[0] for arg in container["args"]]
                    assert [arg for arg in image.command if arg.startswith("--")] == options[:3]


def test_no_manifest_holds_a_secret() -> None:
    assert not any(manifest["kind"] == "Secret" for manifest in everything())
    assert "password" not in json.dumps(everything()).lower()


def matching(rules: list[Any], side: str, labels: dict[str, str]) -> set[str | int]:
    """Return the ports that policies' rules open towards, or from, pods with these labels of the same namespace."""
    found: set[str | int] = set()
    for rule in rules:
        peers = [each["podSelector"]["matchLabels"] for each in rule.get(side, []) if each.keys() == {"podSelector"}]
        if side not in rule or any(selects(peer, labels) for peer in peers):
            found |= {port["port"] for port in rule["ports"]}
    return found


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_policies_let_the_gateway_to_torchserve_and_nobody_else(overlay: str) -> None:
    base = BASE.get(overlay, overlay)
    specs = {each["metadata"]["name"]: each["spec"] for each in of_kind(base, "NetworkPolicy")}
    [gateway] = [pod for pod in pods(base) if "gateway" in pod.owner]
    [server] = [pod for pod in pods(overlay) if "gateway" not in pod.owner]
    [container] = server.containers
    numbers = {port["name"]: port["containerPort"] for port in container["ports"]}
    wanted = {numbers[name] for name in ("inference", "management")}
    entering = {numbers[str(name)] for name in matching(specs["torchserve"]["ingress"], "from", gateway.labels)}
    assert entering == wanted
    assert matching(specs["gateway"]["egress"], "to", server.labels) - {5432, 6379} == wanted
    assert matching(specs["torchserve"]["ingress"], "from", server.labels) == set()
