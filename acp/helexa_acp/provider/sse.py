"""Server-sent events from bytes that may be cut anywhere.

No I/O: `feed` returns the events that are now complete, `close` the one that lacked its blank line. Lines
end with LF, CRLF or CR, and only with those (`splitlines` would also cut at U+2028, which JSON text may
hold). A fragment of a line is kept as it came and searched once, so a slow sender costs linear time.
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
    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._at_start = True
        self._after_cr = False
        self._fragments: list[str] = []
        self._data: list[str] = []
        self._event = ""
        self._size = 0

    def feed(self, chunk: bytes) -> list[SseEvent | SseComment]:
        return self._text(self._decoder.decode(chunk))

    def close(self) -> list[SseEvent | SseComment]:
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
        data, event = self._data, self._event
        self._data, self._event = [], ""
        return [SseEvent("\n".join(data), event)] if data else []
