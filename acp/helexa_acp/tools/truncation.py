"""Truncation of what goes to the model and to the client."""

from __future__ import annotations

MAX_OUTPUT_CHARS = 50_000
MAX_TITLE_CHARS = 120


def clip(text: str, limit: int = MAX_OUTPUT_CHARS) -> str:
    """Return the text, or if it is too long its beginning and its end, where errors tend to be."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n\n[{len(text) - 2 * half} characters left out]\n\n{text[-half:]}"


def one_line(text: str, limit: int = MAX_TITLE_CHARS) -> str:
    """Return the text with white space collapsed, cut to the limit."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


class HeadAndTail:
    """The beginning and the end of a stream of bytes, each up to half of a limit."""

    def __init__(self, limit_bytes: int) -> None:
        self._half = limit_bytes // 2
        self._head = bytearray()
        self._tail = bytearray()
        self._size = 0

    @property
    def truncated(self) -> bool:
        return self._size > len(self._head) + len(self._tail)

    def add(self, data: bytes) -> None:
        self._size += len(data)
        room = self._half - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        self._tail += data
        if len(self._tail) > 2 * self._half:
            del self._tail[: -self._half]

    def text(self) -> str:
        tail = bytes(self._tail[-self._half :])
        left_out = self._size - len(self._head) - len(tail)
        gap = f"\n\n[{left_out} bytes left out]\n\n".encode() if left_out > 0 else b""
        return (bytes(self._head) + gap + tail).decode("utf-8", "replace")
