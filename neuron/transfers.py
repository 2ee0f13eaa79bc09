"""The downloads of this process: how far each is, how to end one, and how the last ones ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from neuron.wire import ApiError, Download

MIB = 1 << 20
KEPT = 20  # downloads that are over
UNDER_WAY = frozenset({"running", "cancelling"})


class DownloadCancelledError(Exception):
    """Raised in the threads of a download that somebody ended."""


@dataclass(slots=True)
class Transfer:
    """A download, whose thread counts what has come."""

    source: str
    started_at: float
    done_bytes: int = 0
    total_bytes: int = 0  # 0: not known, or nothing was missing
    state: str = "running"
    message: str = ""

    @property
    def is_cancelled(self) -> bool:
        return self.state == "cancelling"

    def check(self) -> None:
        """Raise `DownloadCancelledError` once somebody has ended it."""
        if self.is_cancelled:
            raise DownloadCancelledError(self.source)

    @property
    def fraction(self) -> float | None:
        return min(1.0, self.done_bytes / self.total_bytes) if self.total_bytes else None

    def told(self) -> Download:
        return Download(
            source=self.source,
            state=self.state,
            done_mb=-(-self.done_bytes // MIB),
            total_mb=-(-self.total_bytes // MIB),
            seconds=round(time.monotonic() - self.started_at, 1) if self.state in UNDER_WAY else None,
            message=self.message,
        )


class Transfers:
    """By source. A thread that downloads holds `under_way`; others look."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[str, list[Transfer]] = {}
        self._over: list[Transfer] = []

    @contextmanager
    def under_way(self, source: str) -> Iterator[Transfer]:
        """Tell of a download while this context lasts, and then how it ended."""
        transfer = Transfer(source, time.monotonic())
        with self._lock:
            self._running.setdefault(source, []).append(transfer)
        try:
            yield transfer
        except BaseException as error:
            state = "cancelled" if transfer.is_cancelled else "failed"
            self._end(transfer, state, error.message if isinstance(error, ApiError) else str(error))
            raise
        self._end(transfer, "done")

    def _end(self, transfer: Transfer, state: str, message: str = "") -> None:
        if state == "done":
            transfer.done_bytes = transfer.total_bytes
        with self._lock:
            transfer.state, transfer.message = state, message[:500]
            same = self._running[transfer.source]
            same.remove(transfer)
            if not same:
                del self._running[transfer.source]
        if transfer.total_bytes or state != "done":  # else all of it was here
            self._keep(transfer)

    def refuse(self, source: str, message: str) -> None:
        """Tell of a download that could not begin; one that failed under way is told of already."""
        with self._lock:
            told = any((each.source, each.message) == (source, message[:500]) for each in self._over)
        if not told:
            self._keep(Transfer(source, time.monotonic(), state="failed", message=message[:500]))

    def _keep(self, transfer: Transfer) -> None:
        with self._lock:
            self._over = [*(each for each in self._over if each.source != transfer.source), transfer][-KEPT:]

    def cancel(self, source: str) -> None:
        """Have the downloads of `source` end, which raise `DownloadCancelledError` at their next piece.

        Raises `ApiError` 404 if there is none.
        """
        with self._lock:
            found = self._running.get(source, [])
            for transfer in found:
                transfer.state = "cancelling"
        if not found:
            message = f"No download of {source!r} is under way here; GET /downloads lists them."
            raise ApiError(404, "download_not_found", message, param="source")

    def find(self, source: str) -> Transfer | None:
        """Return what is known of the download of `source` that is under way; None if there is none."""
        with self._lock:
            found = self._running.get(source)
            return replace(found[0]) if found else None

    def list(self) -> list[Download]:
        """Return those under way, then those that are over, the last one first."""
        with self._lock:
            running = [
                transfer for same in self._running.values() for transfer in same if transfer.total_bytes
            ]
            return [transfer.told() for transfer in (*running, *reversed(self._over))]


TRANSFERS = Transfers()  # the library's cache is this process's, too
