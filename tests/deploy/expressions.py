"""Every PromQL expression that dashboards, alerts and autoscalers ask, and the names in it."""

import json
import re

import promql_parser
import yaml

from launcher.properties import ROOT
from tests.deploy.manifests import everything

ADAPTER = ROOT / "deploy/prometheus/adapter-values.yaml"
DASHBOARD = ROOT / "deploy/grafana/godel-serve.json"


def adapter_rules() -> list[dict[str, str]]:
    """Return the adapter's rules, their templates filled in as the adapter does."""
    found = []
    for rule in yaml.safe_load(ADAPTER.read_text(encoding="utf-8"))["rules"]["custom"]:
        [by] = set(rule["resources"]["overrides"]) - {"namespace"}
        query = rule["metricsQuery"].replace("<<.LabelMatchers>>", f'namespace="n",{by}=~"a|b"')
        found.append({"name": rule["name"]["as"], "series": rule["seriesQuery"], "by": by})
        found[-1]["query"] = query.replace("<<.GroupBy>>", by)
    return found


def expressions() -> list[str]:
    """Return all of them."""
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    for manifest in everything():
        if manifest["kind"] == "PrometheusRule":
            found += [rule["expr"] for group in manifest["spec"]["groups"] for rule in group["rules"]]
    found += [part for rule in adapter_rules() for part in (rule["query"], rule["series"])]
    return [expression.replace("$__rate_interval", "5m") for expression in found]


def names(expression: str) -> set[str]:
    """Return the metrics that an expression reads. Raises ValueError when it is no PromQL."""
    found: set[str] = set()

    def visit(node: promql_parser.Expr) -> bool:
        if isinstance(node, promql_parser.VectorSelector) and node.name:
            found.add(node.name)
        return True

    promql_parser.walk(promql_parser.parse(expression), visit)
    return found or set(re.findall(r"^\w+$", expression))
