"""Names of metrics keep the rules of `promtool check metrics`; former names tell the same for one version."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
from prometheus_client import REGISTRY, CollectorRegistry, Gauge, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from fleet.gateway.record import metrics
from fleet.gateway.record.former_names import FORMER_NAMES, WithFormerNames
from fleet.services import metrics as services

# What promtool takes for units that are not of the base, and for abbreviations of units.
PREFIXES = "pico|nano|micro|milli|centi|deci|deca|hecto|kilo|kibi|mega|mibi|giga|gibi|tera|tebi|peta|pebi"
BASE = "amperes?|bytes?|celsius|grams?|joules?|kelvins?|meters?|metres?|seconds?|volts?"
NOT_OF_THE_BASE = rf"_(?:(?:{PREFIXES})(?:{BASE})|minutes?|hours?|days?|weeks?|percent|percentage)(?=_|$)"
ABBREVIATED = r"_(?:s|ms|us|ns|sec|b|kb|mb|gb|tb|pb|m|h|d|pct|temp|c)(?=_|$)"
ENDINGS = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
PROMETHEUS = Path(__file__).parents[2] / "deploy" / "prometheus"
TYPES = r"_(?:gauge|counter|histogram|summary)(?=_|$)"


def ours() -> list[Metric]:
    assert services.EVICTIONS  # its module has been imported
    return [metric for metric in REGISTRY.collect() if metric.name.startswith("cortex_")]


def objections(metric: Metric) -> list[str]:
    """What the lint says of a metric; the client library adds `_total` to counters, and to nothing else."""
    name = metric.name
    found = []
    if not metric.documentation:
        found.append("has no help text")
    if name.endswith("_total"):
        found.append("only counters end in _total, once")
    if metric.type == "gauge" and re.search(r"_(?:count|sum|bucket|info)$", name):
        found.append("has a suffix of histograms")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        found.append("is not written in small letters")
    broken = (re.search(rule, name) for rule in (NOT_OF_THE_BASE, ABBREVIATED, TYPES))
    return found + [f"has {match[0]}" for match in broken if match]


def test_every_name_keeps_the_rules():
    broken = {metric.name: found for metric in ours() if (found := objections(metric))}
    assert broken == {}
    assert len(ours()) > 30


@pytest.mark.parametrize("name", sorted(former.name for former in FORMER_NAMES.values()))
def test_every_former_name_broke_one(name: str):
    assert objections(Metric(name, "help", "gauge"))


def test_former_names_are_told_beside_their_own_in_their_own_units():
    registry = CollectorRegistry()
    used = Gauge("cortex_device_memory_used_bytes", "Device memory in use", ("node",), registry=registry)
    used.labels("gpu").set(3 << 20)
    busy = Gauge("cortex_device_utilization_ratio", "Device utilisation", ("node",), registry=registry)
    busy.labels("gpu").set(0.25)
    told = CollectorRegistry()
    told.register(WithFormerNames(registry))
    text = generate_latest(told).decode()
    assert 'cortex_device_memory_used_bytes{node="gpu"} 3.145728e+06' in text
    assert 'cortex_device_vram_used_mb{node="gpu"} 3.0' in text
    assert 'cortex_device_utilization_pct{node="gpu"} 25.0' in text


def test_every_metric_with_a_former_name_is_there():
    assert set(FORMER_NAMES) <= {metric.name for metric in ours()}
    assert metrics.MIB == 1 << 20


class Once(Collector):
    """Every metric of ours with one sample: promtool passes over those that have none."""

    def collect(self) -> Iterable[Metric]:
        for each in ours():
            made = Metric(each.name, each.documentation, each.type)
            for ending in ENDINGS.get(each.type, [""]):
                made.add_sample(each.name + ending, {"le": "+Inf"} if ending == "_bucket" else {}, 1)
            yield made


def promtool(*arguments: str | Path, told: str = "") -> str:
    """What the real promtool objects to; the test is skipped where there is none."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not on PATH (Debian has it in the package prometheus)")
    command = [program, *map(str, arguments)]
    ended = subprocess.run(command, input=told, capture_output=True, text=True, timeout=300, check=False)
    return "" if ended.returncode == 0 else ended.stdout + ended.stderr


def test_promtool_has_nothing_to_say_of_metrics():
    registry = CollectorRegistry()
    registry.register(Once())
    text = generate_latest(registry).decode()
    assert text.count("# TYPE") == len(ours())
    assert promtool("check", "metrics", told=text) == ""


def test_promtool_takes_the_rules_and_the_example(tmp_path: Path):
    for path in PROMETHEUS.iterdir():
        shutil.copy(path, tmp_path)
    assert promtool("check", "rules", tmp_path / "alerts.yml") == ""
    assert promtool("check", "config", tmp_path / "scrape.example.yml") == ""
