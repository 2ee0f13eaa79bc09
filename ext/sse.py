# cython: language_level=3, boundscheck=False, wraparound=False, annotation_typing=False
"""Scans OpenAI's server-sent events as they pass, without building their JSON.

Bytes go in, cut anywhere, and the same bytes come out, an event once it is whole. An event with nothing but
usage can be held back from a client that did not ask for it; one whose data is no JSON object, a remark such
as `data: ping`, is left out, since clients decode all data. The file runs as plain Python, where regular
expressions look for the keys; compiled, `sse.pxd` beside it adds the types that make it fast.

Searching for keys is sound: inside a JSON string every quote is escaped, so the bytes `"usage":` can only be
a key. `usage` and `error` hold an event's data as it came, for the caller to parse.
"""

from __future__ import annotations

import re

MAX_EVENT_BYTES = 1 << 20  # a longer event passes without being scanned

_COMPILED = not __file__.endswith(".py")

_QUOTE, _COLON, _OPEN_LIST, _OPEN_OBJECT = 0x22, 0x3A, 0x5B, 0x7B
_C, _E, _F, _R, _T, _U = 0x63, 0x65, 0x66, 0x72, 0x74, 0x75

# What an event holds.
_VISIBLE = 1  # text, reasoning or a tool call: something that a person or a program sees
_FINISH = 2
_USAGE = 4
_ERROR = 8
_CHOICES = 16

_PATTERNS = (
    (
        _VISIBLE,
        re.compile(rb'"(?:content|reasoning_content|reasoning|text)"\s*:\s*"[^"]|"tool_calls"\s*:\s*\[\s*\{'),
    ),
    (_FINISH, re.compile(rb'"finish_reason"\s*:\s*"')),
    (_USAGE, re.compile(rb'"usage"\s*:\s*\{')),
    (_ERROR, re.compile(rb'"error"\s*:\s*[{"]')),
    (_CHOICES, re.compile(rb'"choices"\s*:\s*\[\s*\{')),
)


class SSEScanner:
    """Scans one stream. `feed` returns the bytes to pass on."""

    def __init__(self, hide_usage: bool = False) -> None:
        self.visible = False  # something visible has passed
        self.done = False  # [DONE] has passed
        self.usage = b""  # data of the last event that held usage
        self.finish = b""  # data of the first event that held a finish reason
        self.error = b""  # data of the first error event
        self.events = 0  # events with data, [DONE] not counted
        self._hide_usage = hide_usage
        self._tail = b""  # the beginning of an event that has not ended
        self._searched = 0  # bytes of it that hold no event's end

    def feed(self, data: bytes) -> bytes:
        """Return the bytes to pass on now: `data` itself, unless usage is hidden."""
        if not self._tail and _is_plain(data):
            return data if self._note(data[6 : len(data) - 2]) else b""
        buffer = self._tail + data if self._tail else data
        start = 0
        kept: list[bytes] = []
        while True:
            end = _event_end(buffer, max(start, self._searched))
            if end < 0:
                break
            event = buffer[start:end]
            if self._look(event):
                kept.append(event)
            start = end
            self._searched = 0
        return self._keep(buffer, start, kept)

    def _keep(self, buffer: bytes, start: int, kept: list[bytes]) -> bytes:
        self._tail = buffer[start:] if start else buffer
        self._searched = max(0, len(self._tail) - 3)  # an end is at most 4 bytes: CR LF CR LF
        if len(self._tail) > MAX_EVENT_BYTES:
            kept.append(self._tail)
            self._tail = b""
            self._searched = 0
        return b"".join(kept)

    def close(self) -> bytes:
        """End the stream. Return what was still held back: an event without its blank line."""
        tail = self._tail
        self._tail = b""
        return tail if tail and self._look(tail) else b""

    def _look(self, event: bytes) -> bool:
        """Note what an event holds, and return whether it passes."""
        data = _data(event)
        if not data:
            return True
        if data == b"[DONE]":
            self.done = True
            return True
        return data.lstrip().startswith(b"{") and self._note(data)

    def _note(self, data: bytes) -> bool:
        """Like `_look`, for the JSON of an event."""
        self.events += 1
        facts = _facts(data, len(data)) if _COMPILED else _facts_by_patterns(data)
        if facts & _VISIBLE:
            self.visible = True
        if facts & _FINISH and not self.finish:
            self.finish = data
        if facts & _ERROR and not self.error:
            self.error = data
        if facts & _USAGE:
            self.usage = data
            return not self._hide_usage or bool(facts & (_CHOICES | _ERROR))
        return True


def _is_plain(data: bytes) -> bool:
    """Return whether it is one event as every server sends them: a line `data: {…}` and an empty line."""
    if not data.startswith(b"data: {") or not data.endswith(b"\n\n"):
        return False
    return data.find(b"\n") == len(data) - 2 and data.find(b"\r") < 0


def _facts_by_patterns(data: bytes) -> int:
    facts = 0
    for fact, pattern in _PATTERNS:
        if pattern.search(data):
            facts |= fact
    return facts


def _facts(data: bytes, end: int) -> int:
    """Return what the patterns find, in one pass."""
    facts, at = 0, 0
    while True:
        while at < end and data[at] != _QUOTE:
            at += 1
        at += 1
        if at >= end:
            return facts
        c = data[at]
        if c in (_C, _R, _T):
            facts |= _delta_fact(data, at, end)
        elif c in (_E, _F, _U):
            facts |= _event_fact(data, at, end)


def _delta_fact(data: bytes, at: int, end: int) -> int:
    if _has(data, at, end, b'content"', 8):
        return _text(data, at + 8, end)
    if _has(data, at, end, b'choices"', 8):
        return _list(data, at + 8, end, _CHOICES)
    if _has(data, at, end, b'reasoning_content"', 18):
        return _text(data, at + 18, end)
    if _has(data, at, end, b'reasoning"', 10):
        return _text(data, at + 10, end)
    if _has(data, at, end, b'text"', 5):
        return _text(data, at + 5, end)
    if _has(data, at, end, b'tool_calls"', 11):
        return _list(data, at + 11, end, _VISIBLE)
    return 0


def _event_fact(data: bytes, at: int, end: int) -> int:
    if _has(data, at, end, b'finish_reason"', 14):
        return _value(data, at + 14, end, _QUOTE, _FINISH)
    if _has(data, at, end, b'usage"', 6):
        return _value(data, at + 6, end, _OPEN_OBJECT, _USAGE)
    if _has(data, at, end, b'error"', 6):
        return _value(data, at + 6, end, _OPEN_OBJECT, _ERROR) | _value(data, at + 6, end, _QUOTE, _ERROR)
    return 0


def _has(data: bytes, at: int, end: int, word: bytes, size: int) -> bool:
    if end - at < size:
        return False
    for i in range(size):  # noqa: SIM110 - a loop in C
        if data[at + i] != word[i]:
            return False
    return True


def _space(data: bytes, at: int, end: int) -> int:
    while at < end and (data[at] == 0x20 or 0x09 <= data[at] <= 0x0D):
        at += 1
    return at


def _colon(data: bytes, at: int, end: int) -> int:
    """Return where the value of the key that ends at `at` begins, or `end` if there is no value."""
    at = _space(data, at, end)
    return _space(data, at + 1, end) if at < end and data[at] == _COLON else end


def _value(data: bytes, at: int, end: int, first: int, fact: int) -> int:
    """Return `fact` if the key's value begins with `first`, else 0."""
    at = _colon(data, at, end)
    return fact if at < end and data[at] == first else 0


def _text(data: bytes, at: int, end: int) -> int:
    """Return _VISIBLE if the key's value is a string that is not empty, else 0."""
    at = _colon(data, at, end)
    return _VISIBLE if at + 1 < end and data[at] == _QUOTE and data[at + 1] != _QUOTE else 0


def _list(data: bytes, at: int, end: int, fact: int) -> int:
    """Return `fact` if the key's value is a list that begins with an object, else 0."""
    at = _colon(data, at, end)
    if at >= end or data[at] != _OPEN_LIST:
        return 0
    at = _space(data, at + 1, end)
    return fact if at < end and data[at] == _OPEN_OBJECT else 0


def _event_end(buffer: bytes, start: int) -> int:
    """Return the index after the first blank line at or after `start`, or -1. Lines end in LF, CR or CRLF."""
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
    """Return the `data:` lines of an event, joined as the standard says; other fields are skipped."""
    if event.startswith(b"data: ") and event.count(b"\n") == 2 and event.endswith(b"\n\n"):
        return event[6 : len(event) - 2]  # what every server sends
    lines = []
    for line in event.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"):
        if line.startswith(b"data:"):
            value = line[5:]
            lines.append(value[1:] if value.startswith(b" ") else value)
    return b"\n".join(lines)
