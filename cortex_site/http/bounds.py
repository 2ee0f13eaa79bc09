"""What a server takes of requests that it does not answer yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

MIB = 1 << 20


class BoundSettings(Protocol):
    """The settings of a server that hold its bounds, under the names that gateway and neuron give them."""

    @property
    def max_body_bytes(self) -> int: ...

    @property
    def max_held_bytes(self) -> int: ...

    @property
    def head_timeout_s(self) -> float: ...

    @property
    def body_timeout_s(self) -> float: ...

    @property
    def http2(self) -> bool: ...

    @property
    def http2_max_streams(self) -> int: ...

    @property
    def http2_max_resets(self) -> int: ...

    @property
    def http2_max_head_bytes(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Http2Bounds:
    """The bounds of one HTTP/2 connection."""

    max_streams: int = 128  # under way
    max_resets: int = 600  # of streams by the client, in a minute
    max_head_bytes: int = 1 << 16  # of a head's fields, decompressed, with 32 for each (RFC 9113, 6.5.2)


@dataclass(frozen=True, slots=True)
class RequestBounds:
    """The bounds of one worker: sizes in bytes, times in seconds."""

    max_body_bytes: int  # of one request, decoded
    max_held_bytes: int = 256 * MIB  # of all bodies, from their first byte to the end of the answer
    head_s: float = 20.0  # from the first byte of a head to its last
    body_s: float = 300.0  # the same of a body
    http2: Http2Bounds | None = Http2Bounds()  # None: HTTP/1.1 alone is spoken

    @classmethod
    def of(cls, settings: BoundSettings) -> Self:
        return cls(
            settings.max_body_bytes,
            settings.max_held_bytes,
            head_s=settings.head_timeout_s,
            body_s=settings.body_timeout_s,
            http2=_http2(settings) if settings.http2 else None,
        )


def _http2(settings: BoundSettings) -> Http2Bounds:
    return Http2Bounds(settings.http2_max_streams, settings.http2_max_resets, settings.http2_max_head_bytes)


class HeldBytes:
    """The bytes of all bodies that a worker holds."""

    __slots__ = ("_max", "total")

    def __init__(self, max_bytes: int) -> None:
        self._max = max_bytes
        self.total = 0

    @property
    def is_over(self) -> bool:
        return self.total > self._max
