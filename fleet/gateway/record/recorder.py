"""From finished requests to Prometheus and the database: a bounded queue and one thread.

A request is recorded where it ends, in a microsecond or two: for the counts, for its log line and for its
row. That wakes no thread, since every switch of threads stops the event loop. The thread wakes every
`BATCH_WAIT_S`, adds the counts to the metrics and stores the records in batches. While the database is away
the records wait for it, as many as the queue holds; a batch that was refused for `retry_s` is given up. Every
record that is lost, wherever that happens, is counted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice

from cortex_site.base import logs
from fleet.gateway.record import metrics
from fleet.gateway.record.metrics import Gaps
from fleet.gateway.record.metrics_buffer import MetricsBuffer
from fleet.records import RequestRecord

log = logging.getLogger("cortex.records")
request_log = logging.getLogger("cortex.request")

_ORDINARY = frozenset({"ok", "cancelled"})

BATCH_SIZE = 500
BATCH_WAIT_S = 0.5
RETRY_S = 2.0


class Recorder:
    """`store` writes a batch and may raise. The recorder's thread alone calls it.

    `known` tells which models may become labels of metrics: clients choose names too.
    """

    def __init__(
        self,
        store: Callable[[Sequence[RequestRecord]], None],
        *,
        queue_size: int,
        retry_s: float = 120.0,
        known: Callable[[str], bool] = bool,
    ) -> None:
        self._store = store
        self._known = known
        self._retry_s = retry_s
        self._queue_size = queue_size
        self._buffer = MetricsBuffer(known)
        self._buffer_lock = threading.Lock()
        self._queue: deque[RequestRecord] = deque()
        self._taken: deque[RequestRecord] = deque()  # from the queue, not stored yet; the thread's own
        self._refused_since: float | None = None
        self._retry_at = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, record: RequestRecord, gaps: Gaps | None = None) -> None:
        """Record a finished request, with the gaps of its stream. Never waits."""
        with self._buffer_lock:
            self._buffer.add(record, gaps)
        level = logging.INFO if record.outcome in _ORDINARY else logging.WARNING
        logs.tell(request_log, level, "request", record, record.started_at + record.latency_s)
        if len(self._queue) < self._queue_size:
            self._queue.append(record)
        else:
            metrics.DROPPED.inc()

    @property
    def waiting(self) -> int:
        """The number of records that are not stored yet."""
        return len(self._queue) + len(self._taken)

    def close(self, timeout_s: float) -> None:
        """Store what is queued, for at most `timeout_s`."""
        self._stopping.set()
        self._thread.join(timeout_s)
        if lost := self.waiting:
            metrics.DROPPED.inc(lost)
            log.error("request records lost at stop", extra={"count": lost})

    def _run(self) -> None:
        while not self._stopping.wait(BATCH_WAIT_S):
            self._work()
        self._retry_at = 0.0  # a last try
        self._work()

    def _work(self) -> None:
        try:
            with self._buffer_lock:
                buffer, self._buffer = self._buffer, MetricsBuffer(self._known)
            buffer.flush()
            while self._queue:
                self._taken.append(self._queue.popleft())
            self._write()
        except Exception:
            log.exception("the recorder failed, and goes on")

    def _write(self) -> None:
        """Store what was taken from the queue, oldest first, until the database refuses."""
        if (over := len(self._taken) - self._queue_size) > 0:
            self._drop(over, "more of them than may wait for the database")
        while self._taken and time.monotonic() >= self._retry_at:
            batch = list(islice(self._taken, BATCH_SIZE))
            try:
                self._store(batch)
            except Exception as error:  # noqa: BLE001 - whatever the database raises, the record waits
                self._refused(len(batch), str(error))
            else:
                self._refused_since = None
                self._remove(len(batch))

    def _refused(self, count: int, reason: str) -> None:
        now = time.monotonic()
        if self._refused_since is None:
            self._refused_since = now
            log.warning("request records not stored yet", extra={"count": count, "error": reason})
        if now - self._refused_since >= self._retry_s:  # perhaps this batch cannot be stored
            self._refused_since = None
            self._drop(count, reason)
        else:
            self._retry_at = now + min(RETRY_S, self._retry_s)

    def _drop(self, count: int, reason: str) -> None:
        self._remove(count)
        metrics.DROPPED.inc(count)
        log.error("request records given up", extra={"count": count, "error": reason})

    def _remove(self, count: int) -> None:
        for _ in range(count):
            self._taken.popleft()
