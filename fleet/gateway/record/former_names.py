"""Metrics under the names that they had at first, beside their own, for dashboards that ask for these.

They go after version 0.1: units are written out and of the base now, and a gauge ends in no `_total`, as
promtool's lint wants it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class FormerName:
    """What a metric was called, and how many of its present units one former unit is."""

    name: str
    unit: float = 1


FORMER_NAMES = {
    "cortex_model_prefill_tokens_per_second": FormerName("cortex_model_tok_s_prefill"),
    "cortex_model_decode_tokens_per_second": FormerName("cortex_model_tok_s_decode"),
    "cortex_model_rejected_requests": FormerName("cortex_model_rejections_total"),
    "cortex_device_memory_used_bytes": FormerName("cortex_device_vram_used_mb", MIB),
    "cortex_device_memory_free_bytes": FormerName("cortex_device_vram_free_mb", MIB),
    "cortex_device_utilization_ratio": FormerName("cortex_device_utilization_pct", 0.01),
    "cortex_device_temperature_celsius": FormerName("cortex_device_temp_c"),
}


class WithFormerNames(Collector):
    """All that another collector tells, and gauges under their former names, too."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def collect(self) -> Iterable[Metric]:
        for metric in self._collector.collect():
            yield metric
            if former := FORMER_NAMES.get(metric.name):
                yield _renamed(metric, former)


def _renamed(metric: Metric, former: FormerName) -> Metric:
    told = Metric(former.name, f"{metric.documentation}; ask for {metric.name} instead", metric.type)
    for sample in metric.samples:
        told.add_sample(former.name, sample.labels, sample.value / former.unit)
    return told
