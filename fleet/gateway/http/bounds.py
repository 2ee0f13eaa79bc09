from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PoolBounds:
    """Timeouts in seconds and counts that bound every wait on a node's connections."""

    connect_s: float = 3.0
    first_byte_s: float = 600.0  # until the whole head of an answer is there
    idle_s: float = 300.0  # between two pieces of an answer
    max_connections: int = 512
    queue_s: float = 10.0  # a request waits this long for one of them
    max_queue: int = 1024  # requests that wait
    keep_alive_s: float = 15.0  # less than any server keeps an idle connection
    resend: bool = True  # a request that a kept connection lost, on a fresh one
