"""Finished requests, summed up before they reach the metrics.

Each step of a Prometheus metric costs a lock and a write to the file that it shares with the metrics process:
some microseconds a request. Here all requests between two flushes pay that once. Requests that differ in
their figures alone are one group: a request costs a look-up and an append, and figures are summed up many at
a time.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise

from fleet.gateway.record import metrics
from fleet.gateway.record.metrics import BulkHistogram, Gaps
from fleet.records import RequestRecord

FOLD_AT = 128  # records of a group: bounds what is held, however late `flush` comes

Kind = tuple[str, str, str, str, str, str]  # model, node, outcome, dialect, error code, key


class _Sum:
    """Observations for one histogram, counted by bucket."""

    def __init__(self, histogram: BulkHistogram) -> None:
        self._histogram = histogram
        self.counts = [0] * (len(histogram.bounds) + 1)
        self.total = 0.0

    def add(self, values: list[float]) -> None:
        if not values:
            return
        values.sort()
        reached = [bisect_right(values, bound) for bound in self._histogram.bounds]
        self.add_counted([b - a for a, b in pairwise([0, *reached, len(values)])], sum(values))

    def add_counted(self, counts: Sequence[int], total: float) -> None:
        self.counts = [a + b for a, b in zip(self.counts, counts, strict=True)]
        self.total += total

    def flush(self, *labels: str) -> None:
        if any(self.counts):
            self._histogram.labels(*labels).add(self.counts, self.total)


class _Group:
    """Requests of one kind: the last ones as records, those before summed up."""

    def __init__(self) -> None:
        self._records: list[RequestRecord] = []
        self.requests = self.prompt = self.completion = self.cached = self.retries = 0
        self.durations = _Sum(metrics.DURATION)
        self.loads = _Sum(metrics.COLD)
        self.queued = _Sum(metrics.QUEUE)
        self.overheads = _Sum(metrics.OVERHEAD)
        self.first_tokens = _Sum(metrics.TTFT)
        self.rates = _Sum(metrics.RATE)
        self.gaps = _Sum(metrics.GAP)

    def add(self, record: RequestRecord, gaps: Gaps | None) -> None:
        self._records.append(record)
        if gaps is not None:
            self.gaps.add_counted(*gaps)
        if len(self._records) >= FOLD_AT:
            self._fold()

    def _fold(self) -> None:
        records, self._records = self._records, []
        self.requests += len(records)
        self.retries += sum(record.retries for record in records)
        self.durations.add([record.latency_s for record in records])
        self.loads.add([record.load_s for record in records if record.cold])
        self._fold_answers([record for record in records if record.node])

    def _fold_answers(self, records: list[RequestRecord]) -> None:
        self.prompt += sum(record.prompt_tokens for record in records)
        self.completion += sum(record.completion_tokens for record in records)
        self.cached += sum(record.cached_tokens for record in records)
        self.queued.add([record.queue_s for record in records])
        self.first_tokens.add([record.ttft_s for record in records if record.ttft_s is not None])
        self.rates.add([rate for record in records if (rate := record.tokens_per_second) is not None])
        self.overheads.add([record.overhead_s for record in records if record.overhead_s is not None])

    def flush(self, kind: Kind) -> None:
        self._fold()
        model, node, outcome, dialect, code, key = kind
        at = (model, node)
        metrics.REQUESTS.labels(*at, outcome, dialect).inc(self.requests)
        if outcome == "error":
            metrics.ERRORS.labels(*at, code).inc(self.requests)
        elif outcome == "rejected":
            metrics.REJECTED.labels(code).inc(self.requests)
        if cold := sum(self.loads.counts):
            metrics.COLD_STARTS.labels(*at).inc(cold)
        if self.retries:
            metrics.RETRIES.labels(*at).inc(self.retries)
        if node:
            self._flush_tokens(at, key)
        for times in (self.durations, self.loads, self.queued, self.first_tokens, self.rates):
            times.flush(*at)
        self.overheads.flush(*at)
        self.gaps.flush(*at)

    def _flush_tokens(self, at: tuple[str, str], key: str) -> None:
        metrics.PROMPT.labels(*at).inc(self.prompt)
        metrics.COMPLETION.labels(*at).inc(self.completion)
        metrics.CACHED.labels(*at).inc(self.cached)
        if key:
            metrics.SPEND.labels(key).inc(self.prompt + self.completion)
            metrics.SPEND_PROMPT.labels(key).inc(self.prompt)
            metrics.SPEND_COMPLETION.labels(key).inc(self.completion)


class MetricsBuffer:
    """`add` a request, which is cheap; `flush` them all, which is not.

    `known` tells which models may become labels of metrics: clients choose names too.
    """

    def __init__(self, known: Callable[[str], bool] = bool) -> None:
        self._known = known
        self._groups: dict[Kind, _Group] = {}

    def add(self, record: RequestRecord, gaps: Gaps | None = None) -> None:
        """Add a finished request, with the gaps of its stream."""
        kind = (record.model, record.node, record.outcome, record.dialect, record.error_code, record.key)
        group = self._groups.get(kind)
        if group is None:
            model = record.model if self._known(record.model) else "unknown"
            group = self._groups.setdefault((model, *kind[1:]), _Group())
        group.add(record, gaps)

    def flush(self) -> None:
        """Add everything to the metrics and be empty again."""
        groups, self._groups = self._groups, {}
        for kind, group in groups.items():
            group.flush(kind)
