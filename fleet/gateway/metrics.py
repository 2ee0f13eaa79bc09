"""Prometheus metrics of the data plane, over all of its worker processes.

Each worker writes to files under `PROMETHEUS_MULTIPROC_DIR`, which must be set before this module is
imported; the metrics process reads them all. Names and buckets are part of the public interface.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from fleet.records import RequestRecord
from fleet.snapshot import NodeView

_LABELS = ("model", "node")
_DURATION = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1200)
_TTFT = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 30, 60, 120)
_RATE = (1, 2.5, 5, 10, 15, 20, 30, 40, 60, 80, 120, 200)

REQUESTS = Counter("cortex_requests_total", "Finished requests", (*_LABELS, "outcome", "dialect"))
ERRORS = Counter(
    "cortex_request_errors_total", "Requests the fleet failed, by error code", (*_LABELS, "code")
)
COLD_STARTS = Counter("cortex_cold_starts_total", "Requests that waited for a load", _LABELS)
RETRIES = Counter("cortex_request_retries_total", "Attempts on another replica", _LABELS)
DURATION = Histogram("cortex_request_duration_seconds", "Request to last byte", _LABELS, buckets=_DURATION)
QUEUE = Histogram("cortex_queue_seconds", "Wait for a load or a replica", _LABELS, buckets=_DURATION)
TTFT = Histogram(
    "cortex_time_to_first_token_seconds", "Request to first visible token", _LABELS, buckets=_TTFT
)
RATE = Histogram(
    "cortex_tokens_per_second", "Completion tokens a second after the first", _LABELS, buckets=_RATE
)
PROMPT = Counter("cortex_prompt_tokens_total", "Prompt tokens", _LABELS)
COMPLETION = Counter("cortex_completion_tokens_total", "Completion tokens", _LABELS)
CACHED = Counter("cortex_cached_prompt_tokens_total", "Prompt tokens found in a KV cache", _LABELS)
DROPPED = Counter("cortex_records_dropped_total", "Request records lost: the queue or the database was full")

_LATEST = {"multiprocess_mode": "mostrecent"}
NODE_UP = Gauge("cortex_node_up", "Whether the node answers", ("node",), **_LATEST)
RUNNING = Gauge("cortex_model_in_flight", "Requests running on the node", _LABELS, **_LATEST)
WAITING = Gauge("cortex_model_queue_depth", "Requests waiting on the node", _LABELS, **_LATEST)


def count(record: RequestRecord) -> None:
    """Add one finished request. An unknown model goes without its name: clients must not make labels."""
    labels = (record.model if record.status != 404 else "unknown", record.node)
    REQUESTS.labels(*labels, record.outcome, record.dialect).inc()
    DURATION.labels(*labels).observe(record.latency_s)
    if record.outcome == "error":
        ERRORS.labels(*labels, record.error_code).inc()
    if record.cold:
        COLD_STARTS.labels(*labels).inc()
    if record.retries:
        RETRIES.labels(*labels).inc(record.retries)
    if record.node:
        _count_tokens(record, labels)


def _count_tokens(record: RequestRecord, labels: tuple[str, str]) -> None:
    QUEUE.labels(*labels).observe(record.queue_s)
    PROMPT.labels(*labels).inc(record.prompt_tokens)
    COMPLETION.labels(*labels).inc(record.completion_tokens)
    CACHED.labels(*labels).inc(record.cached_tokens)
    if record.ttft_s is not None:
        TTFT.labels(*labels).observe(record.ttft_s)
    if record.tokens_per_second is not None:
        RATE.labels(*labels).observe(record.tokens_per_second)


def show_node(node: NodeView) -> None:
    """The gauges of one node, as it last said."""
    NODE_UP.labels(node.name).set(int(node.healthy))
    for model in node.models.values():
        RUNNING.labels(model.id, node.name).set(model.running)
        WAITING.labels(model.id, node.name).set(model.waiting)
