"""Schemas of the kinds that are not Kubernetes' own, as far as the manifests use them.

By their published definitions: KServe's `pkg/apis/serving` (ServingRuntimeSpec in v1alpha1; PredictorSpec,
ComponentExtensionSpec and ModelSpec in v1beta1) and the Prometheus operator's API reference. Fields that these
manifests do not use are left out, so an unknown one is refused; pods and containers in them are Kubernetes' own.
"""

from typing import Any

Schema = dict[str, Any]

K8S = "https://kubernetes.io/api/_definitions.json#/$defs/io.k8s."
CONTAINER: Schema = {"$ref": f"{K8S}api.core.v1.Container"}
STRINGS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
COUNT: Schema = {"type": "integer", "minimum": 0}
FORMAT_NAME: Schema = {"name": {"type": "string"}, "version": {"type": "string"}}


def exactly(properties: Schema, required: tuple[str, ...] = ()) -> Schema:
    """Return the schema of an object with these fields and no other."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def resource(version: str, kind: str, spec: Schema) -> Schema:
    """Return the schema of a whole manifest."""
    fields = {
        "apiVersion": {"const": version},
        "kind": {"const": kind},
        "metadata": {"$ref": f"{K8S}apimachinery.pkg.apis.meta.v1.ObjectMeta"},
        "spec": spec,
    }
    return exactly(fields, ("apiVersion", "kind", "metadata", "spec"))


def serving_runtime() -> Schema:
    """KServe's ServingRuntime, v1alpha1."""
    model_format = exactly(
        FORMAT_NAME | {"autoSelect": {"type": "boolean"}, "priority": {"type": "integer", "minimum": 1}}, ("name",)
    )
    protocol = {"enum": ["v1", "v2", "grpc-v1", "grpc-v2"]}
    spec = {
        "supportedModelFormats": {"type": "array", "items": model_format},
        "multiModel": {"type": "boolean"},
        "disabled": {"type": "boolean"},
        "protocolVersions": {"type": "array", "items": protocol},
        "containers": {"type": "array", "minItems": 1, "items": CONTAINER},
        "volumes": {"type": "array", "items": {"$ref": f"{K8S}api.core.v1.Volume"}},
        "nodeSelector": STRINGS,
        "tolerations": {"type": "array", "items": {"$ref": f"{K8S}api.core.v1.Toleration"}},
        "labels": STRINGS,
        "annotations": STRINGS,
    }
    return resource("serving.kserve.io/v1alpha1", "ServingRuntime", exactly(spec, ("containers",)))


def inference_service(pod: Schema) -> Schema:
    """KServe's InferenceService, v1beta1. `pod` are the fields of a PodSpec: a predictor has them inline."""
    model = {
        "modelFormat": exactly(FORMAT_NAME, ("name",)),
        "runtime": {"type": "string"},
        "storageUri": {"type": "string", "pattern": r"^(pvc|s3|gs|hf|https?|oci)://"},
        "resources": {"$ref": f"{K8S}api.core.v1.ResourceRequirements"},
    }
    extension = {
        "minReplicas": COUNT,
        "maxReplicas": COUNT,
        "labels": STRINGS,
        "annotations": STRINGS,
        "deploymentStrategy": {"$ref": f"{K8S}api.apps.v1.DeploymentStrategy"},
        "model": exactly(model, ("modelFormat",)),
    }
    spec = exactly({"predictor": exactly(pod | extension)}, ("predictor",))
    return resource("serving.kserve.io/v1beta1", "InferenceService", spec)


def monitor(kind: str, endpoints: str) -> Schema:
    """The operator's PodMonitor or ServiceMonitor, v1."""
    key = exactly({"name": {"type": "string"}, "key": {"type": "string"}}, ("key",))
    endpoint = {
        "port": {"type": "string"},
        "path": {"type": "string"},
        "interval": {"type": "string", "pattern": r"^\d+(ms|s|m|h)$"},
        "authorization": exactly({"type": {"type": "string"}, "credentials": key}),
    }
    spec = {
        "selector": exactly({"matchLabels": STRINGS}),
        endpoints: {"type": "array", "items": exactly(endpoint)},
    }
    return resource("monitoring.coreos.com/v1", kind, exactly(spec, ("selector",)))


def prometheus_rule() -> Schema:
    """The operator's PrometheusRule, v1."""
    rule = {
        "alert": {"type": "string"},
        "expr": {"type": "string"},
        "for": {"type": "string"},
        "labels": STRINGS,
        "annotations": STRINGS,
    }
    group = {"name": {"type": "string"}, "rules": {"type": "array", "items": exactly(rule, ("alert", "expr"))}}
    spec = exactly({"groups": {"type": "array", "items": exactly(group, ("name", "rules"))}})
    return resource("monitoring.coreos.com/v1", "PrometheusRule", spec)


def schema_of(kind: str, definitions: Schema) -> Schema:
    """Return the schema of `kind`; `definitions` are Kubernetes' own."""
    pod = {
        name: {"$ref": f"{K8S}api.core.v1.PodSpec/properties/{name}"}
        for name in definitions["$defs"]["io.k8s.api.core.v1.PodSpec"]["properties"]
    }
    return {
        "ServingRuntime": serving_runtime,
        "InferenceService": lambda: inference_service(pod),
        "PodMonitor": lambda: monitor("PodMonitor", "podMetricsEndpoints"),
        "ServiceMonitor": lambda: monitor("ServiceMonitor", "endpoints"),
        "PrometheusRule": prometheus_rule,
    }[kind]()
