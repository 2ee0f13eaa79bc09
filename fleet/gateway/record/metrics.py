"""Prometheus metrics of the data plane, over all of its worker processes.

Each worker writes to files under `PROMETHEUS_MULTIPROC_DIR`, which must be set before this module is
imported; the metrics process reads them all. Names and buckets are part of the public interface. Labels come
from the configuration and from nodes. Of what clients send, a bounded number of field names alone becomes a
label.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from prometheus_client import Counter, Gauge, Histogram

from fleet.snapshot import NodeView
from neuron.wire import MIB, ModelLoad, NodeState

_LABELS = ("model", "node")
_DURATION = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1200)
_TTFT = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 30, 60, 120)
_RATE = (1, 2.5, 5, 10, 15, 20, 30, 40, 60, 80, 120, 200)
_GAP = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1, 5)
_DELAY = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2)


class Gaps(NamedTuple):
    """The times between a stream's pieces: their number in each bucket of `GAP`, and their sum."""

    counts: Sequence[int]
    total_s: float


class BulkHistogram(Histogram):
    """A histogram that takes many observations at once, already counted by bucket."""

    def __init__(self, *args: Any, buckets: Sequence[float], **kwargs: Any) -> None:
        super().__init__(*args, buckets=buckets, **kwargs)
        self.bounds = tuple(bound for bound in buckets if bound != math.inf)

    def add(self, counts: Sequence[int], total: float) -> None:
        """Add `counts` by bucket, not cumulated, the one above the last bound included, and their `total`."""
        self._raise_if_not_observable()
        self._sum.inc(total)
        for bucket, count in zip(self._buckets, counts, strict=True):
            if count:
                bucket.inc(count)


REQUESTS = Counter("cortex_requests_total", "Finished requests", (*_LABELS, "outcome", "dialect"))
ERRORS = Counter(
    "cortex_request_errors_total", "Requests the fleet failed, by error code", (*_LABELS, "code")
)
REJECTED = Counter("cortex_requests_rejected_total", "Requests refused as the client's fault", ("code",))
COLD_STARTS = Counter("cortex_cold_starts_total", "Requests that waited for a load", _LABELS)
RETRIES = Counter("cortex_request_retries_total", "Attempts on another replica", _LABELS)
UPSTREAM_FAILURES = Counter(
    "cortex_upstream_failures_total",
    "Exchanges with a node that failed: connect, busy, timeout, closed, protocol",
    ("node", "kind"),
)
DURATION = BulkHistogram(
    "cortex_request_duration_seconds", "Request to last byte", _LABELS, buckets=_DURATION
)
QUEUE = BulkHistogram("cortex_queue_seconds", "Wait for a load or a replica", _LABELS, buckets=_DURATION)
COLD = BulkHistogram(
    "cortex_cold_start_seconds", "Wait for a load, of those that did", _LABELS, buckets=_DURATION
)
TTFT = BulkHistogram(
    "cortex_time_to_first_token_seconds", "Request to first visible token", _LABELS, buckets=_TTFT
)
RATE = BulkHistogram(
    "cortex_tokens_per_second", "Completion tokens a second after the first", _LABELS, buckets=_RATE
)
GAP = BulkHistogram("cortex_inter_token_seconds", "Between the chunks of a stream", _LABELS, buckets=_GAP)
OVERHEAD = BulkHistogram(
    "cortex_gateway_overhead_seconds", "The gateway's own work until a node is asked", _LABELS, buckets=_DELAY
)
PROMPT = Counter("cortex_prompt_tokens_total", "Prompt tokens", _LABELS)
COMPLETION = Counter("cortex_completion_tokens_total", "Completion tokens", _LABELS)
CACHED = Counter("cortex_cached_prompt_tokens_total", "Prompt tokens found in a KV cache", _LABELS)
SPEND = Counter("cortex_spend_tokens_total", "Tokens by API key", ("key",))
SPEND_PROMPT = Counter("cortex_spend_prompt_tokens_total", "Prompt tokens by API key", ("key",))
SPEND_COMPLETION = Counter("cortex_spend_completion_tokens_total", "Completion tokens by API key", ("key",))
DROPPED = Counter("cortex_records_dropped_total", "Request records lost: the queue or the database was full")
SETTLEMENTS_LOST = Counter("cortex_limiter_settlements_lost_total", "Settlements Redis never heard of")
RESPONSES_NOT_STORED = Counter(
    "cortex_responses_not_stored_total", "Answers that were to be kept and are not", ("reason",)
)
UNKNOWN_FIELDS = Counter(
    "cortex_unknown_fields_total",
    "Fields of requests that nobody knows, ignored",
    ("dialect", "field"),
)
ATTRIBUTIONS = Counter(
    "cortex_attributions_dropped_total", "Attribution lines of Claude Code, left out of system prompts"
)
LOOP_DELAY = Histogram("cortex_event_loop_delay_seconds", "Lateness of a timer", buckets=_DELAY)

_BREAKER_STATES = ("closed", "half-open", "open")
_LATEST = {"multiprocess_mode": "mostrecent"}
_ALIVE = {"multiprocess_mode": "livesum"}
OPEN_STREAMS = Gauge("cortex_open_streams", "Streams being written to clients", **_ALIVE)
RECORDS_WAITING = Gauge("cortex_records_waiting", "Request records not stored yet", **_ALIVE)
LIMITER_LOCAL = Gauge(
    "cortex_limiter_local", "Workers whose API key limits are their own: Redis is away", **_ALIVE
)
BREAKER = Gauge(
    "cortex_node_breaker_state",
    "Circuit breaker as the worst-off worker has it: 0 closed, 1 half-open, 2 open",
    ("node",),
    multiprocess_mode="livemax",
)
NODE_UP = Gauge("cortex_node_up", "Whether the node answers", ("node",), **_LATEST)
_PER_MODEL = {
    name: Gauge(f"cortex_model_{name}", text, _LABELS, **_LATEST)
    for name, text in {
        "in_flight": "Requests running on the node",
        "queue_depth": "Requests waiting on the node",
        "max_in_flight": "Requests it runs at once",
        "max_queue_depth": "Requests it lets wait",
        "prefill_tokens_per_second": "Prompt tokens a second",
        "decode_tokens_per_second": "Tokens a second over all requests",
    }.items()
}
_OF_NOW = ("in_flight", "queue_depth", "prefill_tokens_per_second", "decode_tokens_per_second")
REJECTIONS = Gauge(  # the node's own count: every worker hears all of it
    "cortex_model_rejected_requests",
    "Requests the node refused for want of room since the model was loaded",
    (*_LABELS, "reason"),
    **_LATEST,
)
DRAFTS = Gauge(
    "cortex_model_draft_tokens",
    "Tokens of answers that were guessed since the model was loaded: accepted or rejected",
    (*_LABELS, "outcome"),
    **_LATEST,
)
_PER_DEVICE = {
    name: Gauge(f"cortex_device_{name}", text, ("node", "device"), **_LATEST)
    for name, text in {
        "memory_used_bytes": "Device memory in use",
        "memory_free_bytes": "Device memory free",
        "utilization_ratio": "Device utilisation, from 0 to 1",
        "temperature_celsius": "Device temperature",
    }.items()
}


_MAX_FIELDS = 64  # with a label of their own; the others are counted together
_FIELD = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")
_fields: set[str] = set()


def count_unknown(dialect: str, fields: Iterable[str]) -> None:
    """Count unknown fields. Clients choose their names, so only the first `_MAX_FIELDS` become labels."""
    for field in fields:
        if len(_fields) < _MAX_FIELDS and _FIELD.fullmatch(field):
            _fields.add(field)
        UNKNOWN_FIELDS.labels(dialect, field if field in _fields else "other").inc()


def show_breakers(states: Mapping[str, str]) -> None:
    """Show the state of each node's breaker: closed, half-open or open."""
    for node, state in states.items():
        BREAKER.labels(node).set(_BREAKER_STATES.index(state))


def show_node(node: NodeView) -> None:
    """Show whether the node answers."""
    NODE_UP.labels(node.name).set(int(node.healthy))


_shown: defaultdict[str, set[str]] = defaultdict(set)  # models, by node


def show_state(node: str, state: NodeState) -> None:
    """Show what a node says of its load and its devices. Ceilings that it does not name are left out."""
    clear_models(node, _shown[node] - {model.id for model in state.health.models})
    for model in state.health.models:
        _shown[node].add(model.id)
        values = {
            "in_flight": model.running,
            "queue_depth": model.waiting,
            "max_in_flight": model.max_running or None,
            "max_queue_depth": model.max_waiting or None,
            "prefill_tokens_per_second": model.tok_s_prefill,
            "decode_tokens_per_second": model.tok_s_decode,
        }
        _show(_PER_MODEL, values, model.id, node)
        DRAFTS.labels(model.id, node, "accepted").set(model.accepted)
        DRAFTS.labels(model.id, node, "rejected").set(model.drafted - model.accepted)
        for reason, count in _rejections(model).items():
            REJECTIONS.labels(model.id, node, reason).set(count)
    for device in state.health.devices:
        busy = device.utilization_pct
        values = {
            "memory_used_bytes": device.memory_used_mb * MIB,
            "memory_free_bytes": device.memory_free_mb * MIB,
            "utilization_ratio": None if busy is None else busy / 100,
            "temperature_celsius": device.temperature_c,
        }
        _show(_PER_DEVICE, values, node, str(device.index))


def clear_models(node: str, models: Iterable[str] | None = None) -> None:
    """Set to 0 what runs of models that a node no longer reports; of all its models, when it is away."""
    for model in list(_shown[node] if models is None else models):
        _shown[node].discard(model)
        for name in _OF_NOW:
            _PER_MODEL[name].labels(model, node).set(0)


def forget_node(node: str) -> None:
    """Show a node that left the configuration as neither up nor down: down would raise an alarm."""
    clear_models(node)
    BREAKER.labels(node).set(0)
    NODE_UP.labels(node).set(math.nan)


def _rejections(model: ModelLoad) -> dict[str, int]:
    return {"queue_full": model.rejected - model.timed_out, "wait_timeout": model.timed_out}


def _show(gauges: Mapping[str, Gauge], values: Mapping[str, float | None], *labels: str) -> None:
    for name, value in values.items():
        if value is not None:
            gauges[name].labels(*labels).set(value)
