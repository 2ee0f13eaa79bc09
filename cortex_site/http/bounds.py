"""What a server takes of requests that it does not answer yet."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class RequestBounds:
    """The bounds of one worker: sizes in bytes, times in seconds."""

    max_body_bytes: int  # of one request, decoded
    max_held_bytes: int = 256 * MIB  # of all bodies, from their first byte to the end of the answer
    head_s: float = 20.0  # from the first byte of a head to its last
    body_s: float = 300.0  # the same of a body


class HeldBytes:
    """The bytes of all bodies that a worker holds."""

    __slots__ = ("_max", "total")

    def __init__(self, max_bytes: int) -> None:
        self._max = max_bytes
        self.total = 0

    @property
    def is_over(self) -> bool:
        return self.total > self._max
