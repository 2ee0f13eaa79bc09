from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PoolBounds:
    """Seconds and counts that bound every wait."""

    connect_s: float = 3.0
    first_byte_s: float = 600.0
    idle_s: float = 300.0
    max_connections: int = 512
    queue_s: float = 10.0  # a request waits so long for one of them
    max_queue: int = 1024  # requests that wait
    keep_alive_s: float = 15.0  # shorter than any server keeps them
    resend: bool = True  # what a kept connection lost, on a fresh one
