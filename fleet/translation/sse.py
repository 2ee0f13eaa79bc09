"""Server-sent events from bytes that may be cut anywhere (WHATWG HTML, section 9.2).

Works on bytes: a line ends with LF, CRLF or CR, and these never occur inside a UTF-8 code point, so a cut
code point needs no care. (`splitlines` would also cut at U+2028, which JSON text may hold.) The time is
linear in the bytes, however small the pieces, and an endless event is an error, not a growing buffer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

MAX_EVENT_BYTES = 32 << 20  # a whole answer fits; an engine's deltas are below 1 KiB

_BOM = b"\xef\xbb\xbf"
# what proxies and servers send as data to keep a connection open, instead of as a comment
_COMMENT = re.compile(rb":.*|\W?(?:ping|heart-?beat|keep-?alive)\W?", re.DOTALL | re.IGNORECASE)


class SseEvent(NamedTuple):
    """One event. Data lines are joined by LF; `name` is empty where the server gave none."""

    data: bytes
    name: bytes = b""


def is_comment(data: bytes) -> bool:
    """Whether an event's data says nothing: a comment that its sender put into a data line."""
    return _COMMENT.fullmatch(data) is not None


class SseTooLarge(Exception):  # noqa: N818 - it names what the sender did
    """One event is larger than the splitter's bound."""


class SseSplitter:
    """`feed` returns the events that a chunk completes, `close` the one that lacks its blank line.

    Comments and unknown fields are dropped. Raises `SseTooLarge`.
    """

    def __init__(self, *, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._after_cr = False
        self._first_line = True
        self._line: list[bytes] = []  # pieces of the line that has no end yet
        self._data: list[bytes] = []
        self._name = b""
        self._size = 0  # bytes held in _line and _data

    def feed(self, chunk: bytes) -> Iterator[SseEvent]:
        """The events that `chunk` completes; exhaust it. Raises `SseTooLarge` after the last good one."""
        if self.is_one_event(chunk):
            self._first_line = False
            yield SseEvent(chunk[6:-2])
            return
        if b"\r" in chunk or self._after_cr:
            chunk = self._with_lf(chunk)
        first, *rest = chunk.split(b"\n")
        self._keep(first)
        if not rest:
            return
        last = rest.pop()
        for line in (self._whole_line(), *rest):
            if line:
                self._field(line)
            else:
                yield from self._dispatch()
        self._keep(last)

    def is_one_event(self, chunk: bytes) -> bool:
        """Whether a chunk is one data line with its blank line, as most are, and nothing is held."""
        return (
            not (self._size or self._name or self._after_cr)
            and chunk.startswith(b"data: ")
            and chunk.find(b"\n") == len(chunk) - 2
            and chunk.endswith(b"\n\n")
            and b"\r" not in chunk
            and len(chunk) <= self._max_event_bytes
        )

    def close(self) -> Iterator[SseEvent]:
        self._field(self._whole_line())
        yield from self._dispatch()

    def _with_lf(self, chunk: bytes) -> bytes:
        """The chunk with LF for every line end, without an LF that completes the last chunk's CR."""
        if not chunk:
            return chunk
        if self._after_cr:
            chunk = chunk.removeprefix(b"\n")
        self._after_cr = chunk.endswith(b"\r")
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _keep(self, piece: bytes) -> None:
        if piece:
            self._line.append(piece)
            self._grow(len(piece))

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > self._max_event_bytes:
            raise SseTooLarge

    def _whole_line(self) -> bytes:
        line = b"".join(self._line)
        self._line.clear()
        self._size -= len(line)
        if self._first_line:
            self._first_line = False
            line = line.removeprefix(_BOM)
        return line

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name == b"data":
            value = value.removeprefix(b" ")
            self._data.append(value)
            self._grow(len(value) + 1)
        elif name == b"event":
            self._name = value.removeprefix(b" ")

    def _dispatch(self) -> list[SseEvent]:
        events = [SseEvent(b"\n".join(self._data), self._name)] if self._data else []
        self._data.clear()
        self._name = b""
        self._size = 0
        return events
