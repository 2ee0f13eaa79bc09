"""Prometheus metrics of the control plane's work, beside those of `fleet.gateway.record.metrics`."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

EVICTIONS = Counter("cortex_evictions_total", "Models unloaded to make room for others", ("model", "node"))
DEFRAGS = Counter(
    "cortex_defrags_total", "Devices whose worker was replaced for its memory", ("node", "device")
)
EVICTION_WAIT = Histogram(
    "cortex_eviction_wait_seconds",
    "From a load's first eviction to its memory being free",
    ("model", "node"),
    buckets=(0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1200),
)
