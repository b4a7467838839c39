"""Metrics by deployment, so that a new version of the model can be judged beside the old one."""

from collections.abc import Iterable, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from gateway.errors import ModelError
from gateway.members import Group
from gateway.metrics import SECONDS
from gateway.pool import Pool

MAX_DEPLOYMENT_LABELS: Final = 50
"""The first deployments are counted by name, all others together; names come and go while a gateway runs."""

OTHERS: Final = "(others)"


class DeploymentMetrics:
    """Counts what a pool does, in `registry`. It is a `Judge`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._standing = _Standing()
        registry.register(self._standing)
        self._requests = Counter(
            "godel_deployment_requests", "Requests that a deployment was asked.", ["deployment"], registry=registry
        )
        self._failures = Counter(
            "godel_deployment_failures",
            "Those that it did not answer, by cause.",
            ["deployment", "cause"],
            registry=registry,
        )
        self._seconds = Histogram(
            "godel_deployment_seconds",
            "From request to the end of its answer.",
            ["deployment"],
            buckets=SECONDS,
            registry=registry,
        )
        self._names: set[str] = set()

    def __call__(self, deployment: str, error: ModelError | None, seconds: float) -> None:
        """Count a request, and how it went."""
        label = self._label(deployment)
        self._requests.labels(label).inc()
        if error is None:
            self._seconds.labels(label).observe(seconds)
        else:
            self._failures.labels(label, type(error).__name__).inc()

    def watch(self, pool: Pool) -> None:
        """Show weights and servers of `pool` whenever somebody looks."""
        self._standing.pool = pool

    def _label(self, deployment: str) -> str:
        if deployment not in self._names and len(self._names) < MAX_DEPLOYMENT_LABELS:
            self._names.add(deployment)
        return deployment if deployment in self._names else OTHERS


class _Standing(Collector):
    """The deployments as they are just now: those that are gone leave no label behind."""

    pool: Pool | None = None

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics."""
        groups: Sequence[Group] = self.pool.groups if self.pool else ()
        weight = GaugeMetricFamily("godel_deployment_weight", "Percent of the requests.", labels=["deployment"])
        servers = GaugeMetricFamily(
            "godel_deployment_instances", "Model servers, live or passed over.", labels=["deployment", "state"]
        )
        for group in groups:
            name, live = group.deployment.name, len(group.live)
            weight.add_metric([name], group.deployment.weight)
            servers.add_metric([name, "live"], live)
            servers.add_metric([name, "down"], len(group.members) - live)
        yield weight
        yield servers
