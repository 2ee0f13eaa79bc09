"""The time a benchmark may take, watched while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Self


class Budget:
    """A deadline that shortens what it no longer has time for, and notes each such thing in `shortened`.

    `seconds` None sets no deadline.
    """

    def __init__(
        self,
        seconds: float | None = None,
        *,
        shortened: list[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.seconds = float("inf") if seconds is None else seconds
        self.shortened: list[str] = [] if shortened is None else shortened
        self._clock = clock
        self._started = clock()
        self._deadline = self._started + self.seconds

    @property
    def elapsed(self) -> float:
        return self._clock() - self._started

    @property
    def left(self) -> float:
        """Seconds until the deadline; negative after it."""
        return self._deadline - self._clock()

    def slice(self, seconds: float) -> Self:
        """A budget of `seconds` from now, or of what is left of this one if that is less."""
        return type(self)(min(seconds, self.left), shortened=self.shortened, clock=self._clock)

    def share(self, fraction: float) -> Self:
        """A budget of a fraction of this one's whole time, from now, or of what is left of it."""
        return self.slice(fraction * self.seconds)

    def allows(self, what: str, seconds: float = 0.0) -> bool:
        """Whether `seconds` of work fit; if not, `what` is noted as left out."""
        if self.left > seconds:
            return True
        self.shortened.append(f"{what}: left out")
        return False

    def rounds(self, count: int, what: str, *, reserve_s: float = 0.0) -> Iterator[int]:
        """0, then 1, … `count` - 1 while another round fits, and `reserve_s` for what comes after it.

        A round is expected to take as long as the longest one before.
        """
        longest = 0.0
        for number in range(count):
            if number and self.left <= longest + reserve_s:
                self.shortened.append(f"{what}: {number} of {count} rounds")
                return
            started = self._clock()
            yield number
            longest = max(longest, self._clock() - started)
