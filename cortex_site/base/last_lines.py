"""The last lines of a log, kept in memory: numbered, so that a reader can go on where it was."""

from __future__ import annotations

import threading
import time
from collections import deque

from cortex_site.base.excerpt import excerpt
from cortex_site.base.log_files import LogPart

MAX_LINE_CHARS = 4_000


class LastLines:
    """Keeps at most `most` lines of at most `MAX_LINE_CHARS`, for any thread.

    Their numbers begin with the milliseconds of now: those of a process that was started again are higher.
    """

    def __init__(self, most: int) -> None:
        self._lines: deque[str] = deque(maxlen=most)
        self._end = time.time_ns() // 1_000_000
        self._lock = threading.Lock()

    def feed(self, text: str) -> None:
        """Add whole lines."""
        lines = [excerpt(line, MAX_LINE_CHARS) for line in text.splitlines()]
        with self._lock:
            self._lines.extend(lines)
            self._end += len(lines)

    def part(self, *, after: int | None = None, match: str = "") -> LogPart:
        """Return the lines with `match` in them, oldest first, or those from number `after` on."""
        with self._lock:
            lines, end = list(self._lines), self._end
        new = len(lines) if after is None or after > end else min(len(lines), end - after)
        return LogPart([line for line in lines[len(lines) - new :] if match in line], end)
