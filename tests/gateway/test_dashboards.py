"""Dashboard and alerts ask for metrics and labels that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from prometheus_client import REGISTRY

from fleet.gateway.record import metrics as gateway_metrics
from fleet.services import metrics as service_metrics

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana/cortex.json").read_text())
RULES = [
    rule
    for group in yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
SUFFIXES = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "gauge": [""]}


def panels():
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def queries():
    asked = [target["expr"] for panel in panels() for target in panel["targets"]]
    asked += [
        variable["query"]["query"]
        for variable in DASHBOARD["templating"]["list"]
        if variable["type"] == "query"
    ]
    return asked + [rule["expr"] for rule in RULES]


def series() -> set[str]:
    return {
        metric.name + suffix
        for metric in REGISTRY.collect()
        for suffix in SUFFIXES.get(metric.type, [])
        if metric.name.startswith("cortex_")
    }


def labels() -> set[str]:
    found = {"le", "job"}
    for module in (gateway_metrics, service_metrics):
        for metric in vars(module).values():
            found |= set(getattr(metric, "_labelnames", ()))
    return found | {"model", "node", "device"}


@pytest.mark.parametrize("query", sorted(set(queries())))
def test_what_is_asked_for_exists(query):
    assert set(re.findall(r"\bcortex_\w+", query)) <= series()
    named = re.findall(r"(?:by|on) \(([^)]*)\)", query) + re.findall(r"(\w+)(?:=~|=)\"", query)
    assert {name.strip() for part in named for name in part.split(",")} <= labels()
    for opening, closing in ("()", "[]", "{}"):
        assert query.count(opening) == query.count(closing)


def test_every_metric_is_shown_or_is_another_view_of_one():
    asked = " ".join(queries())
    unseen = {
        metric.name
        for metric in REGISTRY.collect()
        if metric.name.startswith("cortex_") and metric.name not in asked
    }
    assert unseen == {"cortex_spend_prompt_tokens", "cortex_spend_completion_tokens"}


def test_panels_have_ids_of_their_own_and_do_not_overlap():
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + dx, at["y"] + dy) for dx in range(at["w"]) for dy in range(at["h"])}
        assert not cells & taken
        taken |= cells


def test_alerts_say_what_is_wrong_and_how_bad_it_is():
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in {"warning", "critical"}
