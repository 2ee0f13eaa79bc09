"""A batch of finished requests, summed up in dictionaries before it reaches the metrics.

Each step of a Prometheus metric costs a lock and a write to the file shared with the metrics process, some
microseconds a request; here the whole batch pays for that once.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from fleet.gateway import metrics
from fleet.gateway.metrics import TallyHistogram
from fleet.records import RequestRecord

Labels = tuple[str, ...]


@dataclass(slots=True)
class _Observed:
    counts: list[int]  # per bucket, and above the last bound
    total: float = 0.0


@dataclass(slots=True)
class Tally:
    """`add` requests, then `flush` them; for one thread."""

    _counts: defaultdict[tuple[Any, Labels], float] = field(default_factory=lambda: defaultdict(float))
    _observed: dict[tuple[TallyHistogram, Labels], _Observed] = field(default_factory=dict)

    def add(self, record: RequestRecord, chunk_times: Sequence[float] = (), *, known: bool) -> None:
        """One finished request; one for a model that is not `known` goes without the model's name."""
        at = (record.model if known else "unknown", record.node)
        self._inc(metrics.REQUESTS, (*at, record.outcome, record.dialect))
        self._observe(metrics.DURATION, at, record.latency_s)
        if record.outcome == "error":
            self._inc(metrics.ERRORS, (*at, record.error_code))
        elif record.outcome == "rejected":
            self._inc(metrics.REJECTED, (record.error_code,))
        if record.cold:
            self._inc(metrics.COLD_STARTS, at)
            self._observe(metrics.COLD, at, record.load_s)
        if record.retries:
            self._inc(metrics.RETRIES, at, record.retries)
        if record.node:
            self._add_answer(record, at)
        if len(chunk_times) > 1:
            self._add_gaps(at, chunk_times)

    def _add_answer(self, record: RequestRecord, at: Labels) -> None:
        self._observe(metrics.QUEUE, at, record.queue_s)
        self._inc(metrics.PROMPT, at, record.prompt_tokens)
        self._inc(metrics.COMPLETION, at, record.completion_tokens)
        self._inc(metrics.CACHED, at, record.cached_tokens)
        if record.key:
            key = (record.key,)
            self._inc(metrics.SPEND, key, record.prompt_tokens + record.completion_tokens)
            self._inc(metrics.SPEND_PROMPT, key, record.prompt_tokens)
            self._inc(metrics.SPEND_COMPLETION, key, record.completion_tokens)
        for histogram, value in (
            (metrics.TTFT, record.ttft_s),
            (metrics.RATE, record.tokens_per_second),
            (metrics.OVERHEAD, record.overhead_s),
        ):
            if value is not None:
                self._observe(histogram, at, value)

    def _add_gaps(self, at: Labels, times: Sequence[float]) -> None:
        observed, bounds = self._observed_of(metrics.GAP, at), metrics.GAP.bounds
        counts = observed.counts
        for earlier, later in pairwise(times):
            counts[bisect_left(bounds, later - earlier)] += 1
        observed.total += times[-1] - times[0]

    def _inc(self, counter: Any, labels: Labels, amount: float = 1) -> None:
        self._counts[counter, labels] += amount

    def _observe(self, histogram: TallyHistogram, labels: Labels, value: float) -> None:
        observed = self._observed_of(histogram, labels)
        observed.counts[bisect_left(histogram.bounds, value)] += 1
        observed.total += value

    def _observed_of(self, histogram: TallyHistogram, labels: Labels) -> _Observed:
        observed = self._observed.get((histogram, labels))
        if observed is None:
            observed = self._observed[histogram, labels] = _Observed([0] * (len(histogram.bounds) + 1))
        return observed

    def flush(self) -> None:
        """Into the metrics; the tally is empty again."""
        for (counter, labels), amount in self._counts.items():
            counter.labels(*labels).inc(amount)
        for (histogram, labels), observed in self._observed.items():
            histogram.labels(*labels).add(observed.counts, observed.total)
        self._counts.clear()
        self._observed.clear()
