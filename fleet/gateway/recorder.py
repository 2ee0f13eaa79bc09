"""From finished requests to Prometheus and the database: a bounded queue and one thread.

The data plane only ever puts. When the database is away the thread keeps its batch and tries again; when the
queue is full meanwhile, records are dropped and counted.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from fleet.gateway import metrics
from fleet.records import RequestRecord

log = logging.getLogger("cortex.records")

BATCH_SIZE = 500
BATCH_WAIT_S = 0.5
RETRY_S = 2.0


class Recorder:
    """`store` writes a batch and may raise; it is called from the recorder's thread only."""

    def __init__(self, store: Callable[[Sequence[RequestRecord]], None], *, queue_size: int) -> None:
        self._store = store
        self._queue: queue.Queue[RequestRecord | None] = queue.Queue(queue_size)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, record: RequestRecord) -> None:
        """Never waits."""
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            metrics.DROPPED.inc()

    def close(self, timeout_s: float) -> None:
        """Write what is queued, for at most `timeout_s`."""
        self._stopping.set()
        with suppress(queue.Full):
            self._queue.put_nowait(None)  # wakes a thread that waits for a record
        self._thread.join(timeout_s)
        if lost := self._queue.qsize():
            metrics.DROPPED.inc(lost)
            log.error("request records lost at stop", extra={"count": lost})

    def _run(self) -> None:
        while not (self._stopping.is_set() and self._queue.empty()):
            batch = self._take()
            for record in batch:
                metrics.count(record)
            if batch:
                self._write(batch)

    def _take(self) -> list[RequestRecord]:
        """Up to BATCH_SIZE records, waiting BATCH_WAIT_S for the first."""
        batch: list[RequestRecord] = []
        with suppress(queue.Empty):
            record = self._queue.get(timeout=BATCH_WAIT_S)
            while record is not None:
                batch.append(record)
                record = self._queue.get_nowait() if len(batch) < BATCH_SIZE else None
        return batch

    def _write(self, batch: Sequence[RequestRecord]) -> None:
        while True:
            try:
                self._store(batch)
            except Exception as error:  # noqa: BLE001 - whatever the database raises, the record waits
                log.warning(
                    "request records not stored yet", extra={"count": len(batch), "error": str(error)}
                )
                if self._stopping.wait(RETRY_S):
                    metrics.DROPPED.inc(len(batch))
                    return
            else:
                return


def wall_clock(monotonic: float) -> float:
    """Seconds since the epoch for a `time.monotonic` reading."""
    return time.time() - (time.monotonic() - monotonic)
