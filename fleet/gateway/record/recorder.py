"""From finished requests to Prometheus and the database: a ledger and one thread.

A request is recorded where it ends, in a microsecond or two: in the counts, as its log line and as its row
(`ext.ledger`). That wakes no thread, since every switch of threads stops the event loop. The thread wakes
every `BATCH_WAIT_S`, adds the counts to the metrics and stores the rows in batches. Counts of many kinds wait
for a few batches more: to add a hundred requests of one kind costs no more than one. While the database
is away the rows wait for it, as many as the queue holds; a batch that was refused for `retry_s` is given up.
Every row that is lost, wherever that happens, is counted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice

from cortex_site.base import logs
from ext.ledger import Ledger
from fleet.gateway.record import counts, metrics
from fleet.gateway.record.traces import RequestTraces

log = logging.getLogger("cortex.records")
request_log = logging.getLogger("cortex.request")

BATCH_SIZE = 500
BATCH_WAIT_S = 0.5
RETRY_S = 2.0
MANY_KINDS = 64  # of requests and keys; their counts wait
MOST_WAITS = 10  # for so many batches at most


class Recorder:
    """`store` writes a batch of rows, each a JSON object, and may raise.

    The recorder's thread alone calls it. `known` tells which models may become labels of metrics: clients
    choose names too.
    """

    def __init__(
        self,
        store: Callable[[Sequence[bytes]], None],
        *,
        queue_size: int,
        retry_s: float = 120.0,
        known: Callable[[str], bool] = bool,
        traces: RequestTraces | None = None,
    ) -> None:
        self._store = store
        self._traces = traces
        self._retry_s = retry_s
        self._queue_size = queue_size
        self.ledger = Ledger(
            counts.BUCKETS,
            heads=(
                logs.head(request_log, logging.INFO, "request"),
                logs.head(request_log, logging.WARNING, "request"),
            ),
            known=known,
            on_line=self._tell,
            max_rows=queue_size,
        )
        self.put = self.ledger.put_now  # of each request, without a call of Python between
        self._taken: deque[bytes] = deque()  # rows that are not stored yet; the thread's own
        self._refused_since: float | None = None
        self._retry_at = 0.0
        self._waits = 0  # since the counts were added
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def waiting(self) -> int:
        """The number of records that are not stored yet."""
        return self.ledger.waiting + len(self._taken)

    def close(self, timeout_s: float) -> None:
        """Store what is queued, for at most `timeout_s`."""
        self._stopping.set()
        self._thread.join(timeout_s)
        if lost := self.waiting:
            metrics.DROPPED.inc(lost)
            log.error("request records lost at stop", extra={"count": lost})

    def _tell(self) -> None:
        logs.tell(request_log, self.ledger.take_lines)

    def _run(self) -> None:
        while not self._stopping.wait(BATCH_WAIT_S):
            self._work()
        self._retry_at = 0.0  # a last try
        self._work()

    def _work(self) -> None:
        try:
            self._count()
            self._count_losses()
            rows = self.ledger.take_rows()
            self._taken += rows
            if self._traces is not None:
                self._traces.tell(rows)
            self._write()
        except Exception:
            log.exception("the recorder failed, and goes on")

    def _count(self) -> None:
        self._waits += 1
        are_many = self.ledger.num_kinds >= MANY_KINDS
        if not are_many or self._waits >= MOST_WAITS or self._stopping.is_set():
            self._waits = 0
            counts.add(*self.ledger.take_sums())

    def _count_losses(self) -> None:
        ledger = self.ledger
        metrics.DROPPED.inc(ledger.take_lost_rows())
        if lines := ledger.take_lost_lines():
            log.warning("log lines of requests were dropped", extra={"lines": lines})

    def _write(self) -> None:
        """Store what was taken from the ledger, oldest first, until the database refuses."""
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
