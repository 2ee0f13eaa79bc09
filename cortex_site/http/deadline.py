# cython: language_level=3, boundscheck=False, wraparound=False, annotation_typing=False
from __future__ import annotations

import asyncio
import math
from collections.abc import Callable


class Deadline:
    """Calls `on_due` when the loop's clock has passed `due`.

    Assign to `due` to postpone it: a timer that fires too early is set again. A new timer for every piece
    that arrives would cost more.
    """

    __slots__ = ("_fires_at", "_loop", "_on_due", "_timer", "due")

    def __init__(self, loop: asyncio.AbstractEventLoop, on_due: Callable[[], None]) -> None:
        self._loop = loop
        self._on_due = on_due
        self._timer: asyncio.TimerHandle | None = None
        self._fires_at = math.inf  # no timer
        self.due = 0.0

    def set(self, due: float) -> None:
        """Start the timer, or let it fire earlier."""
        self.due = due
        if due < self._fires_at:
            self.cancel()
            self._timer = self._loop.call_at(due, self._look)
            self._fires_at = due

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._fires_at = math.inf

    def _look(self) -> None:
        self._timer, self._fires_at = None, math.inf
        if self._loop.time() < self.due:
            self.set(self.due)
        else:
            self._on_due()
