"""A batch of finished requests, summed up before it reaches the metrics.

Each step of a Prometheus metric costs a lock and a write to the file shared with the metrics process, some
microseconds a request; here the whole batch pays for that once. Requests that differ in their figures only
are one group: a request costs a look-up and a few appends.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise

from fleet.gateway import metrics
from fleet.gateway.metrics import Gaps, TallyHistogram
from fleet.records import RequestRecord

Kind = tuple[str, str, str, str, str, str]  # model, node, outcome, dialect, error code, key


class _Group:
    """The figures of requests of one kind."""

    def __init__(self) -> None:
        self.requests = self.prompt = self.completion = self.cached = self.retries = 0
        self.durations: list[float] = []
        self.queued: list[float] = []
        self.loads: list[float] = []
        self.first_tokens: list[float] = []
        self.rates: list[float] = []
        self.overheads: list[float] = []
        self.gaps = [0] * (len(metrics.GAP.bounds) + 1)  # of streams, by bucket
        self.gaps_s = 0.0

    def add(self, record: RequestRecord) -> None:
        self.requests += 1
        self.durations.append(record.latency_s)
        self.retries += record.retries
        if record.cold:
            self.loads.append(record.load_s)
        if record.node:
            self._add_answer(record)

    def _add_answer(self, record: RequestRecord) -> None:
        self.queued.append(record.queue_s)
        self.prompt += record.prompt_tokens
        self.completion += record.completion_tokens
        self.cached += record.cached_tokens
        if record.ttft_s is not None:
            self.first_tokens.append(record.ttft_s)
        if record.tokens_per_second is not None:
            self.rates.append(record.tokens_per_second)
        if record.overhead_s is not None:
            self.overheads.append(record.overhead_s)

    def add_gaps(self, gaps: Gaps) -> None:
        self.gaps = [ours + more for ours, more in zip(self.gaps, gaps.counts, strict=True)]
        self.gaps_s += gaps.total_s

    def flush(self, kind: Kind) -> None:
        model, node, outcome, dialect, code, key = kind
        at = (model, node)
        metrics.REQUESTS.labels(*at, outcome, dialect).inc(self.requests)
        if outcome == "error":
            metrics.ERRORS.labels(*at, code).inc(self.requests)
        elif outcome == "rejected":
            metrics.REJECTED.labels(code).inc(self.requests)
        if self.loads:
            metrics.COLD_STARTS.labels(*at).inc(len(self.loads))
        if self.retries:
            metrics.RETRIES.labels(*at).inc(self.retries)
        if node:
            self._flush_tokens(at, key)
        self._flush_times(at)

    def _flush_tokens(self, at: tuple[str, str], key: str) -> None:
        metrics.PROMPT.labels(*at).inc(self.prompt)
        metrics.COMPLETION.labels(*at).inc(self.completion)
        metrics.CACHED.labels(*at).inc(self.cached)
        if key:
            metrics.SPEND.labels(key).inc(self.prompt + self.completion)
            metrics.SPEND_PROMPT.labels(key).inc(self.prompt)
            metrics.SPEND_COMPLETION.labels(key).inc(self.completion)

    def _flush_times(self, at: tuple[str, str]) -> None:
        for histogram, values in (
            (metrics.DURATION, self.durations),
            (metrics.COLD, self.loads),
            (metrics.QUEUE, self.queued),
            (metrics.TTFT, self.first_tokens),
            (metrics.RATE, self.rates),
            (metrics.OVERHEAD, self.overheads),
        ):
            if values:
                histogram.labels(*at).add(_counted(values, histogram), sum(values))
        if any(self.gaps):
            metrics.GAP.labels(*at).add(self.gaps, self.gaps_s)


def _counted(values: list[float], histogram: TallyHistogram) -> list[int]:
    """How many fall into each bucket, and above the last bound."""
    values.sort()
    reached = [bisect_right(values, bound) for bound in histogram.bounds]
    return [b - a for a, b in pairwise([0, *reached, len(values)])]


class Tally:
    """`add` requests, which is cheap, then `flush` them, which is not."""

    def __init__(self) -> None:
        self._groups: dict[Kind, _Group] = {}

    def add(self, record: RequestRecord, gaps: Gaps | None = None, *, known: bool) -> None:
        """One finished request; one for a model that is not `known` goes without the model's name."""
        model = record.model if known else "unknown"
        kind = (model, record.node, record.outcome, record.dialect, record.error_code, record.key)
        group = self._groups.get(kind)
        if group is None:
            group = self._groups[kind] = _Group()
        group.add(record)
        if gaps is not None:
            group.add_gaps(gaps)

    def flush(self) -> None:
        """Into the metrics; the tally is empty again."""
        groups, self._groups = self._groups, {}
        for kind, group in groups.items():
            group.flush(kind)
