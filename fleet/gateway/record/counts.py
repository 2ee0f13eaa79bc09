"""The sums of ended requests, brought to Prometheus.

Each step of a metric costs a lock and a write to the file that it shares with the metrics process, and
finding it by its labels twice as much. All requests of one kind that ended between two calls pay the former
once; the latter is paid once in all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import TypeVar

from prometheus_client import Counter

from ext.ledger import Buckets, Histogram, Sums, TokenSums
from fleet.gateway.record import metrics
from fleet.gateway.record.metrics import BulkHistogram

Metric = TypeVar("Metric", Counter, BulkHistogram)

BUCKETS = Buckets(
    duration=metrics.DURATION.bounds,
    first_token=metrics.TTFT.bounds,
    rate=metrics.RATE.bounds,
    gap=metrics.GAP.bounds,
    overhead=metrics.OVERHEAD.bounds,
)


def add(ended: Iterable[Sums], spent: Mapping[str, TokenSums]) -> None:
    for sums in ended:
        _add_requests(sums)
        _add_answers(sums)
    for key, tokens in spent.items():
        _step(metrics.SPEND, tokens.prompt_tokens + tokens.completion_tokens, key)
        _step(metrics.SPEND_PROMPT, tokens.prompt_tokens, key)
        _step(metrics.SPEND_COMPLETION, tokens.completion_tokens, key)


def _add_requests(sums: Sums) -> None:
    model, node, outcome, dialect, code = sums.kind
    _step(metrics.REQUESTS, sums.requests, model, node, outcome, dialect)
    if outcome == "error":
        _step(metrics.ERRORS, sums.requests, model, node, code)
    elif outcome == "rejected":
        _step(metrics.REJECTED, sums.requests, code)
    _step(metrics.COLD_STARTS, sums.cold, model, node)
    _step(metrics.RETRIES, sums.retries, model, node)


def _add_answers(sums: Sums) -> None:
    at = sums.kind[:2]
    _step(metrics.PROMPT, sums.prompt_tokens, *at)
    _step(metrics.COMPLETION, sums.completion_tokens, *at)
    _step(metrics.CACHED, sums.cached_tokens, *at)
    _add_times(metrics.DURATION, sums.durations, at)
    _add_times(metrics.COLD, sums.loads, at)
    _add_times(metrics.QUEUE, sums.queued, at)
    _add_times(metrics.TTFT, sums.first_tokens, at)
    _add_times(metrics.RATE, sums.rates, at)
    _add_times(metrics.OVERHEAD, sums.overheads, at)
    _add_times(metrics.GAP, sums.gaps, at)


def _step(counter: Counter, count: int, *labels: str) -> None:
    if count:
        _labelled(counter, *labels).inc(count)


def _add_times(histogram: BulkHistogram, times: Histogram, at: tuple[str, ...]) -> None:
    if any(times.counts):
        _labelled(histogram, *at).add(times.counts, times.total)


@cache
def _labelled(metric: Metric, *labels: str) -> Metric:
    found: Metric = metric.labels(*labels)
    return found
