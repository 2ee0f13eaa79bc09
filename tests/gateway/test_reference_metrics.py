"""Names, labels and buckets that dashboards of the reference system ask for are here, and mean the same.

What it has and we do not: series of image generation, of anonymous callers and of money, none of which there
is here.
"""

from __future__ import annotations

import math

import pytest
from prometheus_client import REGISTRY

from fleet.gateway.record import metrics
from fleet.gateway.record.former_names import FORMER_NAMES
from fleet.services import metrics as services

DURATION = [0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1200]
TTFT = [0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 30, 60, 120]
RATE = [1, 2.5, 5, 10, 15, 20, 30, 40, 60, 80, 120, 200]
AT, KEY, DEVICE = ("model", "node"), ("key",), ("node", "device")

COUNTERS = {
    "cortex_requests_total": (metrics.REQUESTS, AT),
    "cortex_request_errors_total": (metrics.ERRORS, AT),
    "cortex_cold_starts_total": (metrics.COLD_STARTS, AT),
    "cortex_evictions_total": (services.EVICTIONS, AT),
    "cortex_prompt_tokens_total": (metrics.PROMPT, AT),
    "cortex_completion_tokens_total": (metrics.COMPLETION, AT),
    "cortex_cached_prompt_tokens_total": (metrics.CACHED, AT),
    "cortex_spend_tokens_total": (metrics.SPEND, KEY),
    "cortex_spend_prompt_tokens_total": (metrics.SPEND_PROMPT, KEY),
    "cortex_spend_completion_tokens_total": (metrics.SPEND_COMPLETION, KEY),
}
HISTOGRAMS = {
    "cortex_request_duration_seconds": (metrics.DURATION, DURATION),
    "cortex_time_to_first_token_seconds": (metrics.TTFT, TTFT),
    "cortex_tokens_per_second": (metrics.RATE, RATE),
}
PER_MODEL = ["in_flight", "queue_depth", "max_in_flight", "max_queue_depth", "tok_s_prefill", "tok_s_decode"]
PER_DEVICE = ["vram_used_mb", "vram_free_mb", "utilization_pct", "temp_c"]
OF_OUR_OWN = {  # what the reference system cannot tell
    "cortex_inter_token_seconds": metrics.GAP,
    "cortex_queue_seconds": metrics.QUEUE,
    "cortex_cold_start_seconds": metrics.COLD,
    "cortex_eviction_wait_seconds": services.EVICTION_WAIT,
    "cortex_gateway_overhead_seconds": metrics.OVERHEAD,
    "cortex_event_loop_delay_seconds": metrics.LOOP_DELAY,
    "cortex_node_breaker_state": metrics.BREAKER,
    "cortex_records_dropped_total": metrics.DROPPED,
    "cortex_limiter_local": metrics.LIMITER_LOCAL,
    "cortex_model_draft_tokens": metrics.DRAFTS,
}


def names() -> set[str]:
    """As they are exposed, of metrics that have had no value too."""
    found = {metric.name for metric in REGISTRY.collect()}
    return found | {f"{name}_total" for name in found}


@pytest.mark.parametrize("name", COUNTERS)
def test_counters_have_the_name_and_at_least_the_labels(name):
    metric, labels = COUNTERS[name]
    assert name in names()
    assert set(labels) <= set(metric._labelnames)


@pytest.mark.parametrize("name", HISTOGRAMS)
def test_histograms_have_the_name_the_labels_and_the_buckets(name):
    metric, buckets = HISTOGRAMS[name]
    assert metric._name == name
    assert metric._labelnames == AT
    assert metric._upper_bounds == [*buckets, math.inf]


def test_gauges_have_the_names_and_the_labels():
    former = {name: each.name for name, each in FORMER_NAMES.items()}
    for gauges, prefix, wanted, labels in (
        (metrics._PER_MODEL, "cortex_model", PER_MODEL, AT),
        (metrics._PER_DEVICE, "cortex_device", PER_DEVICE, DEVICE),
    ):
        told = {former.get(gauge._name, gauge._name) for gauge in gauges.values()}
        assert told == {f"{prefix}_{name}" for name in wanted}
        assert {gauge._labelnames for gauge in gauges.values()} == {labels}
    assert former[metrics.REJECTIONS._name] == "cortex_model_rejections_total"


def test_what_it_cannot_tell_is_told():
    for name, metric in OF_OUR_OWN.items():
        assert metric._name == name.removesuffix("_total")
