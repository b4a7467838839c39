"""Every manifest is what its API takes: Kubernetes' own schemas, unknown fields refused."""

import copy
from functools import cache
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
from kubernetes_validate import utils
from referencing import Registry, Resource

from tests.deploy.custom_resources import schema_of
from tests.deploy.manifests import Manifest, everything

OLDEST, NEWEST = "1.30", "1.37"
"""docs/kubernetes.md promises the first; the second is the newest that the schemas' package has."""

contents = cache(utils.schema_contents)


@pytest.fixture(autouse=True)
def _read_schemas_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package reads two megabytes of definitions for each manifest."""
    monkeypatch.setattr(utils, "schema_contents", contents)


def check(manifest: Manifest, version: str) -> None:
    """Raise jsonschema's ValidationError unless the API server of this version would take it."""
    group = manifest["apiVersion"].rpartition("/")[0]
    if "." not in group or group.endswith(".k8s.io"):
        assert kubernetes_validate.validate(manifest, version, strict=True) == version
    else:
        validator(manifest["kind"], version).validate(manifest)


@cache
def validator(kind: str, version: str) -> Any:
    definitions = contents(f"kubernetes-json-schema/v{version}.0-local-strict/_definitions.json", version)
    registry = Resource.from_contents(definitions) @ Registry()
    return jsonschema.Draft202012Validator(schema_of(kind, definitions), registry=registry)


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_every_manifest_is_what_its_api_takes(version: str) -> None:
    for manifest in everything():
        try:
            check(manifest, version)
        except jsonschema.ValidationError as error:
            name = f"{manifest['kind']} {manifest['metadata']['name']}"
            pytest.fail(f"{name}: {'.'.join(map(str, error.absolute_path))}: {error.message}")


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("Deployment", ["spec", "template", "spec", "containers", 0]),
        ("NetworkPolicy", ["spec"]),
        ("InferenceService", ["spec", "predictor"]),
        ("ServingRuntime", ["spec", "containers", 0, "livenessProbe"]),
        ("ServiceMonitor", ["spec", "endpoints", 0]),
    ],
)
def test_a_misspelt_field_is_refused(kind: str, path: list[str | int]) -> None:
    manifest = copy.deepcopy(next(each for each in everything() if each["kind"] == kind))
    place: Any = manifest
    for step in path:
        place = place[step]
    place["resorces"] = {}
    with pytest.raises(jsonschema.ValidationError, match="resorces"):
        check(manifest, NEWEST)
