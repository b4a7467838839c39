"""Prometheus, Grafana and the autoscaler's adapter ask for what there is, in expressions that parse."""

import json
import re

import pytest
import yaml

from gateway import errors
from launcher.properties import ROOT
from tests.deploy.expressions import ADAPTER, DASHBOARD, adapter_rules, expressions, names
from tests.deploy.manifests import everything
from tests.deploy.test_compose import SERVICES

DEPLOY = ROOT / "deploy"


@pytest.mark.parametrize("expression", expressions())
def test_an_expression_parses_and_reads_something(expression: str) -> None:
    assert names(expression)


def test_nonsense_is_found_out() -> None:
    with pytest.raises(ValueError, match="unclosed left parenthesis"):
        names("sum by (le) (rate(godel_queue_seconds_bucket[5m])")


def test_the_autoscaler_asks_for_what_the_adapter_makes() -> None:
    made = {(rule["name"], rule["by"]) for rule in adapter_rules()}
    asked = set()
    for manifest in everything():
        if manifest["kind"] == "HorizontalPodAutoscaler":
            for metric in manifest["spec"]["metrics"]:
                if metric["type"] == "Pods":
                    asked.add((metric["pods"]["metric"]["name"], "pod"))
                elif metric["type"] == "Object":
                    about = metric["object"]["describedObject"]["kind"].lower()
                    asked.add((metric["object"]["metric"]["name"], about))
    assert asked == made
    assert len(yaml.safe_load(ADAPTER.read_text())["rules"]["custom"]) == len(made)


def test_monitors_scrape_ports_that_services_and_pods_have() -> None:
    monitors = [each for each in everything() if each["kind"] in ("PodMonitor", "ServiceMonitor")]
    services = [each for each in everything() if each["kind"] == "Service"]
    deployments = [each for each in everything() if each["kind"] == "Deployment"]
    assert len(monitors) == 2
    for monitor in monitors:
        labels = monitor["spec"]["selector"]["matchLabels"].items()
        if monitor["kind"] == "ServiceMonitor":
            found = [each["spec"]["ports"] for each in services if labels <= each["metadata"]["labels"].items()]
            [endpoint] = monitor["spec"]["endpoints"]
        else:
            templates = [each["spec"]["template"] for each in deployments]
            chosen = [each["spec"] for each in templates if labels <= each["metadata"]["labels"].items()]
            found = [spec["containers"][0]["ports"] for spec in chosen]
            [endpoint] = monitor["spec"]["podMetricsEndpoints"]
        assert found
        assert all(endpoint["port"] in {port["name"] for port in ports} for ports in found)


def test_prometheus_scrapes_the_services_of_compose_where_they_listen() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text(encoding="utf-8"))
    ports = {"gateway": 8000, "torchserve": 8082}
    for job in config["scrape_configs"]:
        [places] = job["dns_sd_configs"]
        assert places == {"names": [job["job_name"]], "type": "A", "port": ports.pop(job["job_name"])}
        assert "watch" in SERVICES[job["job_name"]]["networks"]
        if "authorization" in job:
            secret = job["authorization"]["credentials_file"].rpartition("/")[2]
            assert secret in SERVICES["prometheus"]["secrets"]
    assert not ports


def test_grafana_finds_its_source_and_its_dashboard() -> None:
    mounts = dict(mount.split(":")[:2] for mount in SERVICES["grafana"]["volumes"])
    provisioning = DEPLOY / "grafana/provisioning"
    source = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text(encoding="utf-8"))
    assert source["datasources"][0]["url"] == "http://prometheus:9090"
    assert "prometheus" in SERVICES
    provider = yaml.safe_load((provisioning / "dashboards/godel-serve.yaml").read_text(encoding="utf-8"))
    [folder] = [each["options"]["path"] for each in provider["providers"]]
    assert mounts["./grafana/godel-serve.json"] == f"{folder}/{DASHBOARD.name}"
    assert mounts["./grafana/provisioning"] == "/etc/grafana/provisioning"
    assert json.loads(DASHBOARD.read_text(encoding="utf-8"))["uid"]


def test_causes_that_are_asked_for_are_failures_that_there_are() -> None:
    found = [each for text in expressions() for each in re.findall(r'cause=~?"([^"]+)"', text)]
    causes = {cause for each in found for cause in each.split("|")}
    assert causes
    assert all(issubclass(getattr(errors, cause), errors.GatewayError) for cause in causes)
