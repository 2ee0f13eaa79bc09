"""From finished requests to Prometheus and the database: a bounded queue and one thread.

The data plane only ever puts. The thread looks every `BATCH_WAIT_S` (a thread woken for each request would
cost more than what it does for it), counts and logs what has come and stores it in batches. When the database
is away what is counted waits for it, as many records as the queue holds; a batch that was refused for
`retry_s` is given up. Whatever is lost, at any place, is counted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice

from cortex_site import logs
from fleet.gateway import metrics
from fleet.gateway.tally import Tally
from fleet.records import RequestRecord, unhurried

log = logging.getLogger("cortex.records")
request_log = logging.getLogger("cortex.request")

_ORDINARY = frozenset({"ok", "cancelled"})

BATCH_SIZE = 500
BATCH_WAIT_S = 0.5
RETRY_S = 2.0

Item = tuple[RequestRecord, Sequence[float]]  # with the times at which its chunks came


class Recorder:
    """`store` writes a batch and may raise; it is called from the recorder's thread only.

    `known` says which models may become labels of metrics: clients choose names too.
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
        self._queue: deque[Item] = deque()
        self._counted: deque[RequestRecord] = deque()  # not stored yet; the thread's own
        self._refused_since: float | None = None
        self._retry_at = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, record: RequestRecord, chunk_times: Sequence[float] = ()) -> None:
        """Never waits. `chunk_times` are monotonic, of a stream's chunks in their order."""
        if len(self._queue) < self._queue_size:
            self._queue.append((record, chunk_times))
        else:
            metrics.DROPPED.inc()

    @property
    def waiting(self) -> int:
        """Records that are not stored yet."""
        return len(self._queue) + len(self._counted)

    def close(self, timeout_s: float) -> None:
        """Write what is queued, for at most `timeout_s`."""
        self._stopping.set()
        self._thread.join(timeout_s)
        if lost := self.waiting:
            metrics.DROPPED.inc(lost)
            log.error("request records lost at stop", extra={"count": lost})

    def _run(self) -> None:
        while not self._stopping.wait(BATCH_WAIT_S):
            self._count()
            self._write()
        self._count()
        self._retry_at = 0.0  # a last try
        self._write()

    def _count(self) -> None:
        """What has come, into the metrics and the log."""
        tally = Tally()
        for _ in unhurried(range(len(self._queue))):
            record, chunk_times = self._queue.popleft()
            tally.add(record, chunk_times, known=self._known(record.model))
            level = logging.INFO if record.outcome in _ORDINARY else logging.WARNING
            logs.tell(request_log, level, "request", record, record.started_at + record.latency_s)
            self._counted.append(record)
        tally.flush()

    def _write(self) -> None:
        """Store what is counted, oldest first, until the database refuses."""
        if (over := len(self._counted) - self._queue_size) > 0:
            self._drop(over, "more of them than may wait for the database")
        while self._counted and time.monotonic() >= self._retry_at:
            batch = list(islice(self._counted, BATCH_SIZE))
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
        if now - self._refused_since >= self._retry_s:  # it may be this batch that cannot be stored
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
            self._counted.popleft()
