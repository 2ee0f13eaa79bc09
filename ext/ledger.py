# cython: language_level=3, boundscheck=False, wraparound=False, annotation_typing=False, cdivision=True
"""Accounts of requests that have ended: each becomes sums, a log line and a row, all in one call.

A record is written once, as the JSON that both its log line and its row are; neither is made of objects, then
or later. What is written waits in two bounded lists, and what is summed up in a table of kinds, until some
thread takes them. They know bytes and numbers; clocks, metrics and the database belong to their owner.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from ext.writer import ByteWriter, quoted

_OPEN = 0x7B
_ORDINARY = frozenset({"ok", "cancelled"})  # outcomes that are nobody's fault
_KIND = (b"model", b"node", b"outcome", b"dialect", b"error_code")


class Entry:
    """One request, as it becomes known. Times are monotonic, durations in seconds.

    Tokens are as the engine counted them, 0 when it did not.
    """

    def __init__(self, request_id: str, dialect: str, received: float) -> None:
        self.request_id = request_id
        self.dialect = dialect  # such as openai-chat or anthropic-messages
        self.received = received
        self.model = ""  # resolved name; as the client wrote it when it is unknown
        self.node = ""  # asked last; empty when none was
        self.key = ""  # name of the API key; empty for anonymous
        self.outcome = ""  # of `fleet.records.Outcome`
        self.error_code = ""
        self.finish_reason = ""
        self.status = 0  # the HTTP status sent; 499 when the client left before one
        self.stream = False
        self.cold = False  # waited for a load
        self.retries = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.cached_tokens = 0
        self.first_token = 0.0  # when the first visible token passed; 0 when none did
        self.queue_s = 0.0  # waited for a load or a free connection
        self.load_s = 0.0  # of that, waited for a load
        self.overhead_s = -1.0  # the gateway's own work until a node was asked; below 0 when none was
        self.attempts: tuple[tuple[str, str], ...] = ()  # nodes that did not answer: name, error code
        self.waits_s: tuple[tuple[str, float], ...] = ()  # nodes that were compared: name, expected wait
        self.notes: tuple[tuple[str, str], ...] = ()  # how the node took it: name, text
        self.gaps: list[int] | None = None  # of a stream: times between its pieces, by bucket
        self.gaps_s = 0.0  # their sum


class Histogram:
    """Observations by bucket: one for each of `bounds`, its upper limit included, and one above the last."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self._bounds = bounds

    def add(self, value: float) -> None:
        at, last = 0, len(self._bounds)
        while at < last and value > self._bounds[at]:
            at += 1
        self.counts[at] += 1
        self.total += value

    def add_counted(self, counts: list[int], total: float) -> None:
        for at in range(len(counts)):
            self.counts[at] += counts[at]
        self.total += total


class Buckets:
    """The upper limits of the buckets of each histogram of `Sums`."""

    def __init__(
        self,
        *,
        duration: Sequence[float],
        first_token: Sequence[float],
        rate: Sequence[float],
        gap: Sequence[float],
        overhead: Sequence[float],
    ) -> None:
        self.duration = tuple(map(float, duration))
        self.first_token = tuple(map(float, first_token))
        self.rate = tuple(map(float, rate))
        self.gap = tuple(map(float, gap))
        self.overhead = tuple(map(float, overhead))


class Sums:
    """What the requests of one kind add up to. `kind`: model, node, outcome, dialect, error code."""

    def __init__(self, kind: tuple[str, ...], buckets: Buckets) -> None:
        self.kind = kind
        self.requests = self.retries = self.cold = 0
        self.prompt_tokens = self.completion_tokens = self.cached_tokens = 0
        self.durations = Histogram(buckets.duration)
        self.queued = Histogram(buckets.duration)
        self.loads = Histogram(buckets.duration)
        self.first_tokens = Histogram(buckets.first_token)
        self.rates = Histogram(buckets.rate)
        self.gaps = Histogram(buckets.gap)
        self.overheads = Histogram(buckets.overhead)
        self._fields = _kind_fields(kind)  # of a record, the same for all

    def add(self, entry: Entry, latency_s: float, rate: float) -> None:
        self.requests += 1
        self.retries += entry.retries
        self.durations.add(latency_s)
        if entry.cold:
            self.cold += 1
            self.loads.add(entry.load_s)
        if entry.gaps is not None:
            self.gaps.add_counted(entry.gaps, entry.gaps_s)
        if not entry.node:
            return
        self.prompt_tokens += entry.prompt_tokens
        self.completion_tokens += entry.completion_tokens
        self.cached_tokens += entry.cached_tokens
        self.queued.add(entry.queue_s)
        if entry.first_token:
            self.first_tokens.add(entry.first_token - entry.received)
        if rate >= 0:
            self.rates.add(rate)
        if entry.overhead_s >= 0:
            self.overheads.add(entry.overhead_s)


class TokenSums:
    """The tokens that nodes counted for the requests of one API key."""

    def __init__(self) -> None:
        self.prompt_tokens = self.completion_tokens = 0


class Ledger:
    """Takes the entries of one worker. `take_*` may be called from another thread.

    `heads` are the members that begin the lines of requests that went well and of others, without braces; no
    lines of those whose head is empty. `known` tells which models are told apart in sums: clients choose
    names too. `on_line` is called when a line waits and none did before.
    """

    def __init__(
        self,
        buckets: Buckets,
        *,
        heads: tuple[bytes, bytes] = (b"", b""),
        known: Callable[[str], bool] = bool,
        on_line: Callable[[], object] = bool,
        max_rows: int = 10_000,
        max_lines: int = 10_000,
    ) -> None:
        self._buckets = buckets
        self._good, self._bad = heads
        self._known = known
        self._on_line = on_line
        self._max_rows = max_rows
        self._max_lines = max_lines
        self._rows: list[bytes] = []
        self._lines: list[bytes] = []
        self._sums: dict[tuple[str, ...], Sums] = {}
        self._spent: dict[str, TokenSums] = {}  # by key
        self._is_adding = False
        self._lost_rows = self._lost_lines = 0  # that found no room
        self._line = ByteWriter()
        self._second = -1
        self._moment = b""  # of that second, as a line begins

    @property
    def waiting(self) -> int:
        """The number of rows that nobody has taken."""
        return len(self._rows)

    @property
    def num_kinds(self) -> int:
        """The number of kinds and keys whose sums nobody has taken."""
        return len(self._sums) + len(self._spent)

    def put_now(self, entry: Entry) -> None:
        """Record a request that has just ended. Never waits."""
        self.put(entry, time.monotonic(), time.time())

    def put(self, entry: Entry, now: float, ended_at: float) -> None:
        """Record a request that ended `now`, which is `ended_at` in seconds since the epoch. Never waits."""
        kind = (entry.model, entry.node, entry.outcome, entry.dialect, entry.error_code)
        latency_s = now - entry.received
        rate = -1.0
        if entry.first_token and entry.completion_tokens > 1 and now > entry.first_token:
            rate = (entry.completion_tokens - 1) / (now - entry.first_token)
        self._is_adding = True
        try:
            sums = self._sums.get(kind)
            if sums is None:
                sums = self._begin(kind)
            sums.add(entry, latency_s, rate)
            if entry.key and entry.node:
                self._spend(entry)
        finally:
            self._is_adding = False
        fields = sums._fields if sums.kind == kind else _kind_fields(kind)
        head = self._good if entry.outcome in _ORDINARY else self._bad
        line = self._line
        line.clear()
        self._put_head(head, ended_at)
        start = line.size
        self._put_fields(entry, fields, latency_s, rate, ended_at)
        line.put(b"}\n")
        if head and self._keep_line():
            self._on_line()
        self._keep_row(start)

    def take_rows(self) -> list[bytes]:
        """The rows that wait, oldest first, each a JSON object."""
        return _taken(self._rows)

    def take_lines(self) -> bytes:
        """The lines that wait, oldest first, each a JSON object with its end of line."""
        return b"".join(_taken(self._lines))

    def take_sums(self) -> tuple[list[Sums], dict[str, TokenSums]]:
        """What was summed up since the last call, by kind and by key."""
        sums, self._sums = self._sums, {}
        spent, self._spent = self._spent, {}
        while self._is_adding:  # perhaps to these: in C never, in Python for an instant
            time.sleep(0)
        return list(sums.values()), spent

    def take_lost_rows(self) -> int:
        """The number of rows that found no room since the last call."""
        lost = self._lost_rows
        self._lost_rows -= lost
        return lost

    def take_lost_lines(self) -> int:
        """The number of lines that found no room since the last call."""
        lost = self._lost_lines
        self._lost_lines -= lost
        return lost

    def _begin(self, kind: tuple[str, ...]) -> Sums:
        if not self._known(kind[0]):
            kind = ("unknown", *kind[1:])
        sums = self._sums.get(kind)
        if sums is None:
            sums = self._sums[kind] = Sums(kind, self._buckets)
        return sums

    def _spend(self, entry: Entry) -> None:
        spent = self._spent.get(entry.key)
        if spent is None:
            spent = self._spent[entry.key] = TokenSums()
        spent.prompt_tokens += entry.prompt_tokens
        spent.completion_tokens += entry.completion_tokens

    def _keep_line(self) -> bool:
        """Return whether no other line waits."""
        lines = self._lines
        if len(lines) >= self._max_lines:
            self._lost_lines += 1
            return False
        lines.append(self._line.written(0, self._line.size))
        return len(lines) == 1

    def _keep_row(self, start: int) -> None:
        rows, line = self._rows, self._line
        if len(rows) >= self._max_rows:
            self._lost_rows += 1
        else:
            line.replace(start - 1, _OPEN)  # a comma until now
            rows.append(line.written(start - 1, line.size - 1))

    # --- writing ---

    def _put_head(self, head: bytes, at: float) -> None:
        line = self._line
        second = int(at)
        if second != self._second:
            moment = datetime.fromtimestamp(second, UTC).strftime('{"time":"%Y-%m-%dT%H:%M:%S.')
            self._second, self._moment = second, moment.encode()
        line.put(self._moment)
        thousandths = int((at - second) * 1000)
        line.put_digits(thousandths, 3)
        line.put(b'+00:00",')
        line.put(head)
        line.put(b",")

    def _put_fields(
        self, entry: Entry, fields: bytes, latency_s: float, rate: float, ended_at: float
    ) -> None:
        line = self._line
        line.put_text(b'"request_id":', entry.request_id)
        line.put_seconds(b',"started_at":', ended_at - latency_s)
        line.put(fields)
        line.put_text(b',"key":', entry.key)
        line.put(b',"stream":true' if entry.stream else b',"stream":false')
        line.put_number(b',"status":', entry.status)
        line.put_number(b',"prompt_tokens":', entry.prompt_tokens)
        line.put_number(b',"completion_tokens":', entry.completion_tokens)
        line.put_number(b',"cached_tokens":', entry.cached_tokens)
        self._put_known(b',"ttft_s":', entry.first_token - entry.received if entry.first_token else -1.0)
        line.put_seconds(b',"latency_s":', latency_s)
        line.put_seconds(b',"queue_s":', entry.queue_s)
        line.put(b',"cold":true' if entry.cold else b',"cold":false')
        line.put_number(b',"retries":', entry.retries)
        line.put_seconds(b',"load_s":', entry.load_s)
        self._put_known(b',"overhead_s":', entry.overhead_s)
        line.put_text(b',"finish_reason":', entry.finish_reason)
        self._put_pairs(b',"attempts":[', entry.attempts)
        self._put_pairs(b',"waits_s":[', entry.waits_s)
        self._put_pairs(b',"notes":[', entry.notes)
        self._put_known(b',"tokens_per_second":', rate)

    def _put_pairs(self, before: bytes, pairs: tuple[tuple[str, Any], ...]) -> None:
        line = self._line
        line.put(before)
        for at, (name, value) in enumerate(pairs):
            line.put_text(b",[" if at else b"[", name)
            if isinstance(value, str):
                line.put_text(b",", value)
            else:
                line.put_seconds(b",", value)
            line.put(b"]")
        line.put(b"]")

    def _put_known(self, before: bytes, value: float) -> None:
        """A number that is below 0 when it is not known."""
        if value < 0:
            self._line.put(before)
            self._line.put(b"null")
        else:
            self._line.put_seconds(before, value)


def _taken(waiting: list[bytes]) -> list[bytes]:
    """Empty a list that the other thread appends to."""
    count = len(waiting)
    taken = waiting[:count]
    del waiting[:count]
    return taken


def _kind_fields(kind: tuple[str, ...]) -> bytes:
    return b"".join([b',"%b":%b' % (name, quoted(text)) for name, text in zip(_KIND, kind, strict=True)])
