# cython: language_level=3, boundscheck=False, wraparound=False, annotation_typing=False
from __future__ import annotations

import asyncio


class BodyBuffer:
    """Body bytes that arrived and were not taken yet. While it `is_paused`, the socket is not read."""

    __slots__ = ("_parts", "_transport", "is_paused", "size")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self.size = 0
        self.is_paused = False

    def attach(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def add(self, data: bytes) -> None:
        if data:
            self._parts.append(data)
            self.size += len(data)

    def take(self) -> bytes:
        """Return all of them."""
        parts, self._parts, self.size = self._parts, [], 0
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def pause(self) -> None:
        if not self.is_paused:
            self.is_paused = True
            if self._transport is not None:
                self._transport.pause_reading()

    def resume(self) -> None:
        if self.is_paused:
            self.is_paused = False
            if self._transport is not None:
                self._transport.resume_reading()
