"""Speeds as they are now: amounts over busy seconds, the past fading out."""

from __future__ import annotations

HALF_LIFE_S = 5.0  # of busy time: an idle engine remembers how fast it was


class Rate:
    """Something per second of work."""

    def __init__(self) -> None:
        self._amount = 0.0
        self._seconds = 0.0

    def add(self, amount: float, seconds: float) -> None:
        fade = 0.5 ** (seconds / HALF_LIFE_S)
        self._amount = self._amount * fade + amount
        self._seconds = self._seconds * fade + seconds

    @property
    def per_second(self) -> float:
        return self._amount / self._seconds if self._seconds else 0.0
