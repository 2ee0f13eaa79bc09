"""Throughput as it is now: amounts over busy seconds, with the past fading out."""

from __future__ import annotations

import math

HALF_LIFE_S = 5.0
MAX_RETRY_AFTER_S = 600


class Throughput:
    """An amount per second of work. Half of it is forgotten in `half_life_s` of work, nothing while idle."""

    def __init__(self, half_life_s: float = HALF_LIFE_S) -> None:
        self._half_life_s = half_life_s
        self._amount = 0.0
        self._seconds = 0.0

    def add(self, amount: float, seconds: float) -> None:
        fade = 0.5 ** (seconds / self._half_life_s)
        self._amount = self._amount * fade + amount
        self._seconds = self._seconds * fade + seconds

    @property
    def per_second(self) -> float:
        return self._amount / self._seconds if self._seconds else 0.0

    def retry_after_s(self, num_waiting: int) -> int:
        """Return when so many requests will have been served at this rate, and one more."""
        seconds = math.ceil((num_waiting + 1) / self.per_second) if self.per_second else 1
        return min(max(seconds, 1), MAX_RETRY_AFTER_S)
