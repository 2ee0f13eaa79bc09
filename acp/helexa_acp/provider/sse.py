"""A parser of server-sent events (WHATWG HTML, 9.2.6), without I/O.

Lines end with LF, CRLF or CR and nothing else; `str.splitlines` would also split at U+2028, which JSON text
may hold. Fragments of a line are searched once and joined at its end, so that time is linear in the bytes
however they are split.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

MAX_EVENT_CHARS = 32 * 1024 * 1024

_LINE_END = re.compile(r"\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class SseEvent:
    data: str
    event: str = ""


@dataclass(frozen=True, slots=True)
class SseComment:
    text: str


class SseTooLongError(Exception):
    """One event exceeded MAX_EVENT_CHARS."""


class SseParser:
    """Takes bytes that may be split anywhere, and returns events and comments in their order."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._at_start = True
        self._after_cr = False
        self._fragments: list[str] = []
        self._data: list[str] = []
        self._event = ""
        self._size = 0

    def feed(self, chunk: bytes) -> list[SseEvent | SseComment]:
        """Return what is now complete. Raises SseTooLongError."""
        return self._text(self._decoder.decode(chunk))

    def close(self) -> list[SseEvent | SseComment]:
        """Return the last event, if it lacked its blank line."""
        events = self._text(self._decoder.decode(b"", final=True))
        line = "".join(self._fragments)
        self._fragments = []
        return [*events, *self._line(line), *self._line("")]

    def _text(self, text: str) -> list[SseEvent | SseComment]:
        if not text:
            return []
        if self._at_start:
            self._at_start = False
            text = text.removeprefix("\ufeff")
        if self._after_cr:
            text = text.removeprefix("\n")
        self._after_cr = text.endswith("\r")
        first, *rest = _LINE_END.split(text)
        self._fragments.append(first)
        self._size += len(first)
        if self._size > MAX_EVENT_CHARS:
            raise SseTooLongError
        if not rest:
            return []
        lines = ["".join(self._fragments), *rest[:-1]]
        self._fragments = [rest[-1]]
        self._size = len(rest[-1]) + sum(map(len, self._data))
        return [event for line in lines for event in self._line(line)]

    def _line(self, line: str) -> list[SseEvent | SseComment]:
        if not line:
            return self._dispatch()
        if line.startswith(":"):
            return [SseComment(line[1:].strip())]
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        return []

    def _dispatch(self) -> list[SseEvent | SseComment]:
        events: list[SseEvent | SseComment] = []
        if self._data:
            events.append(SseEvent("\n".join(self._data), self._event))
        self._data = []
        self._event = ""
        return events
