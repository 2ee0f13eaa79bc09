# cython: language_level=3, boundscheck=False, wraparound=False, annotation_typing=False, cdivision=True
"""Writes bytes one after another into one piece of memory that is used again and again."""

from __future__ import annotations

from typing import Any

from ext.chunk import enclose, is_plain

_COMPILED = not __file__.endswith(".py")
_ZERO = 0x30
_MOST_DIGITS = 20
_MOST_S = 9e12  # seconds that are written; what is longer, infinite or no number is null


class ByteWriter:
    """`size` bytes are written. Methods named `put_*` take what comes before a value along with it."""

    def __init__(self) -> None:
        self.size = 0
        self._data = bytearray(1024)

    def clear(self) -> None:
        self.size = 0

    def written(self, start: int, end: int) -> bytes:
        data = self._data
        piece: Any = data[start:end]  # bytes in C
        return piece if _COMPILED else bytes(piece)

    def replace(self, at: int, byte: int) -> None:
        data = self._data
        data[at] = byte

    def put(self, piece: bytes) -> None:
        size = len(piece)
        end = self.size + size
        if end > len(self._data):
            self._data += bytes(end)
        if _COMPILED:
            _copy(self._data, self.size, piece, size)
        else:
            self._data[self.size : end] = piece
        self.size = end

    def put_number(self, before: bytes, value: int) -> None:
        """A number from 0 up, in decimal digits."""
        self.put(before)
        size, rest = 1, value // 10
        while rest:
            size += 1
            rest //= 10
        self.put_digits(value, size)

    def put_digits(self, value: int, size: int) -> None:
        """So many decimal digits, with zeros before them."""
        if self.size + _MOST_DIGITS > len(self._data):
            self._data += bytes(len(self._data))
        data = self._data
        at = self.size + size
        self.size = at
        while size:
            at -= 1
            size -= 1
            data[at] = _ZERO + value % 10
            value //= 10

    def put_seconds(self, before: bytes, value: float) -> None:
        """A JSON number with six digits after the point; null where it cannot be written so."""
        self.put(before)
        if -_MOST_S < value < _MOST_S:
            if value < 0:
                self.put(b"-")
                value = -value
            millionths = int(value * 1e6 + 0.5)
            whole = millionths // 1_000_000
            self.put_number(b"", whole)
            self.put(b".")
            self.put_digits(millionths - whole * 1_000_000, 6)
        else:
            self.put(b"null")

    def put_text(self, before: bytes, text: str) -> None:
        """A JSON string."""
        self.put(before)
        if text.isascii() and is_plain(data := text.encode()):
            self.put(b'"')
            self.put(data)
            self.put(b'"')
        else:
            self.put(quoted(text))


def quoted(text: str) -> bytes:
    """Return the text as a JSON string that a database takes: no NULs, no halves of surrogate pairs."""
    if not text.isascii():
        text = text.encode(errors="replace").decode()
    found = enclose(b'"', text, b'"')
    return enclose(b'"', text.replace("\0", "\N{REPLACEMENT CHARACTER}"), b'"') if b"\\" in found else found


def _copy(into: Any, at: int, piece: bytes, size: int) -> None:
    """In C alone, where `into` is an address."""
    memcpy(into + at, piece, size)  # type: ignore[name-defined]  # noqa: F821 - of writer.pxd
