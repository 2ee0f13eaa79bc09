# cython: language_level=3, boundscheck=False, wraparound=False
"""A scanner for OpenAI's server-sent events as they pass: what happened, without building JSON.

Bytes go in at any chunk boundary, the same bytes come out, except that a chunk holding nothing but usage can
be held back from a client that did not ask for it. Written in Cython's pure-Python mode: setup.py compiles
this very file, and without a compiler it runs as it stands.

Why searching for keys is sound: inside a JSON string every quote is escaped, so the bytes `"usage":` can only
be a key. The reader decides what to do with `usage` and `error`; they hold an event's data as it came.
"""

from __future__ import annotations

import re

MAX_EVENT_BYTES = 1 << 20  # an event longer than this passes unread

# A delta that a person or a program would see: text, reasoning, or a tool call that is not an empty list.
_VISIBLE = re.compile(
    rb'"(?:content|reasoning_content|reasoning|text)"\s*:\s*"[^"]|"tool_calls"\s*:\s*\[\s*\{'
)
_FINISH = re.compile(rb'"finish_reason"\s*:\s*"')
_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_ERROR = re.compile(rb'"error"\s*:\s*[{"]')
_NO_CHOICES = re.compile(rb'"choices"\s*:\s*\[\s*\]')


class SSEScanner:
    """Watches one stream. `feed` returns what to pass on."""

    def __init__(self, hide_usage: bool = False) -> None:
        self.visible = False  # something visible has passed
        self.finished = False  # a finish reason has passed
        self.done = False  # [DONE] has passed
        self.usage = b""  # data of the last event that held usage
        self.error = b""  # data of the first error event
        self.events = 0  # events with data, [DONE] not counted
        self._hide_usage = hide_usage
        self._tail = b""  # the event that is not complete yet
        self._searched = 0  # how much of the tail holds no event's end

    def feed(self, data: bytes) -> bytes:
        """Look at `data`; the bytes to pass on now (all of it, unless usage is hidden)."""
        buffer = self._tail + data if self._tail else data
        start = 0
        kept: list[bytes] = []
        while True:
            end = _event_end(buffer, max(start, self._searched))
            if end < 0:
                break
            event = buffer[start:end]
            if self._look(event) or not self._hide_usage:
                kept.append(event)
            start = end
            self._searched = 0
        return self._keep(buffer, start, data, kept)

    def _keep(self, buffer: bytes, start: int, data: bytes, kept: list[bytes]) -> bytes:
        self._tail = buffer[start:] if start else buffer
        self._searched = max(0, len(self._tail) - 3)  # an end is at most 4 bytes: CR LF CR LF
        if len(self._tail) > MAX_EVENT_BYTES:
            kept.append(self._tail)
            self._tail = b""
            self._searched = 0
        return b"".join(kept) if self._hide_usage else data

    def close(self) -> bytes:
        """The stream ended: what was still held back (an event without its blank line)."""
        tail = self._tail
        self._tail = b""
        if tail and not self._look(tail):
            return b""
        return tail if self._hide_usage else b""

    def _look(self, event: bytes) -> bool:
        """Note what an event says; False when it holds nothing but usage."""
        data = _data(event)
        if not data:
            return True
        if data == b"[DONE]":
            self.done = True
            return True
        self.events += 1
        if not self.visible and _VISIBLE.search(data):
            self.visible = True
        if not self.finished and _FINISH.search(data):
            self.finished = True
        if not self.error and _ERROR.search(data):
            self.error = data
        if _USAGE.search(data):
            self.usage = data
            return not _NO_CHOICES.search(data)
        return True


def _event_end(buffer: bytes, start: int) -> int:
    """The index after the first blank line at or after `start`, or -1. Lines end in LF, CR or CRLF."""
    lf = buffer.find(b"\n\n", start)
    if buffer.find(b"\r", start) < 0:
        return lf + 2 if lf >= 0 else -1
    best = lf + 2 if lf >= 0 else -1
    for mark in (b"\r\n\r\n", b"\r\r", b"\n\r\n"):
        at = buffer.find(mark, start)
        if at >= 0 and (best < 0 or at + len(mark) < best):
            best = at + len(mark)
    return best


def _data(event: bytes) -> bytes:
    """The `data:` lines of an event, joined as the standard says; comments and other fields are skipped."""
    if event.startswith(b"data: ") and event.count(b"\n") == 2 and event.endswith(b"\n\n"):
        return event[6:-2]  # what every server sends
    lines = []
    for line in event.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"):
        if line.startswith(b"data:"):
            value = line[5:]
            lines.append(value[1:] if value.startswith(b" ") else value)
    return b"\n".join(lines)
