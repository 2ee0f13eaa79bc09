# cython: language_level=3, boundscheck=False, wraparound=False, annotation_typing=False
"""Reads HTTP/1.1 heads and chunks as well-behaved programs write them, in one call.

`request` and `answer` return a head only if it is complete and any complete parser would read the same. In
all other cases (a header given twice, a continued line, another version than 1.1, an upgrade, a byte out of
place) they return None, and the caller needs a complete parser.

The file runs as plain Python; compiled, `http.pxd` beside it adds the types that make it fast.
"""

from __future__ import annotations

COMPILED = not __file__.endswith(".py")  # as plain Python it is slower than a complete parser in C
MAX_HEAD_BYTES = 1 << 16
_MAX_DIGITS = 15  # of a content length

_CR, _LF, _SPACE, _TAB, _COLON, _SLASH, _ZERO, _NINE = 0x0D, 0x0A, 0x20, 0x09, 0x3A, 0x2F, 0x30, 0x39

# Where a byte may stand: in a header's name (RFC 9110, 5.6.2), in its value, in a target that needs no
# decoding.
_NAME, _VALUE, _TARGET, _CAPITAL = 1, 2, 4, 8
_TABLE = bytes(
    ((chr(c).isalnum() and c < 128) or c in b"!#$%&'*+-.^_`|~") * _NAME
    | (c in b"\t" or 0x20 <= c < 0x7F or c > 0x7F) * _VALUE
    | (0x21 <= c < 0x7F and c not in b'"#%<>\\^`{|}') * _TARGET
    | (0x41 <= c <= 0x5A) * _CAPITAL
    for c in range(256)
)
_HEX = bytes(int(chr(c), 16) if c < 128 and chr(c) in "0123456789abcdefABCDEF" else 16 for c in range(256))
_METHODS = (b"POST", b"GET", b"DELETE", b"HEAD", b"PUT")


class Head:
    """The head of a message.

    `headers` are by name in lower case; `length` is that of the body, or -1 if the head does not give one.
    """

    def __init__(self) -> None:
        self.method = ""
        self.path = ""
        self.query = b""
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.length = -1
        self.chunked = False
        self.keep_alive = True
        self.size = 0  # bytes of the head, the empty line included
        self._before = self._after = b""  # the head, except for the digits of the length

    def repeats(self, data: bytes) -> bool:
        """Return whether `data` begins with this head once more; then the head becomes that one.

        A client repeats its head from request to request, and changes the length alone.
        """
        at, text = len(self._before), data
        if not at or not data.startswith(self._before):
            return False
        end, length, most = at, 0, min(len(data), at + _MAX_DIGITS)
        while end < most and _ZERO <= text[end] <= _NINE:
            length = length * 10 + (text[end] - _ZERO)
            end += 1
        if end == at or not data.startswith(self._after, end):
            return False
        digits = data[at:end]
        if digits != self.headers[b"content-length"]:
            self.headers = {**self.headers, b"content-length": digits}
        self.size, self.length = end + len(self._after), length
        return True

    def _read_headers(self, data: bytes, at: int, end: int) -> bool:
        """Read the lines up to the empty one. Return False if one is not plain or a name comes twice."""
        text, table = data, _TABLE
        while True:
            start, capitals = at, 0
            while at < end and table[text[at]] & _NAME:
                capitals |= table[text[at]] & _CAPITAL
                at += 1
            if at == start:
                if end - at < 2 or text[at] != _CR or text[at + 1] != _LF:
                    return False
                self.size = at + 2
                return True
            if at == end or text[at] != _COLON:
                return False
            name = data[start:at].lower() if capitals else data[start:at]
            at += 1
            while at < end and (text[at] == _SPACE or text[at] == _TAB):
                at += 1
            start = at
            while at < end and table[text[at]] & _VALUE:
                at += 1
            if end - at < 2 or text[at] != _CR or text[at + 1] != _LF:
                return False
            stop = at
            while stop > start and text[stop - 1] == _SPACE:
                stop -= 1
            if stop > start and text[stop - 1] == _TAB:
                return False  # which complete parsers take for a part of the value
            at += 2
            if name in self.headers:
                return False
            self.headers[name] = data[start:stop]

    def _keep(self, data: bytes) -> None:
        """Keep what `repeats` compares with."""
        digits = self.headers.get(b"content-length")
        if digits is not None:
            at = data[: self.size].lower().find(b"\r\ncontent-length:") + len(b"\r\ncontent-length:")
            while data[at] == _SPACE or data[at] == _TAB:
                at += 1
            self._before, self._after = data[:at], data[at + len(digits) : self.size]

    def _read_framing(self) -> bool:
        """Read from the headers how the body ends and whether the connection is kept.

        Return False if a complete parser is needed for that.
        """
        headers = self.headers
        if b"upgrade" in headers or b"expect" in headers:
            return False
        length = headers.get(b"content-length")
        if length is not None:
            self.length = _number(length, len(length))
            if self.length < 0:
                return False
        coding = headers.get(b"transfer-encoding")
        if coding is not None:
            if coding != b"chunked" or length is not None:
                return False
            self.chunked = True
        connection = headers.get(b"connection")
        if connection is not None:
            connection = connection.lower()
            self.keep_alive = connection == b"keep-alive"
            return self.keep_alive or connection == b"close"
        return True


def request(data: bytes) -> Head | None:
    """Return the head of the request that `data` begins with, or None. Its body is `length` bytes long."""
    line = data.find(b"\r\n", 0, MAX_HEAD_BYTES)
    if line < 0 or not data.startswith(b" HTTP/1.1", line - 9):
        return None
    start, end = data.find(b" ", 0, line) + 1, line - 9
    method = data[: start - 1]
    if method not in _METHODS or start >= end or data[start] != _SLASH:
        return None
    at, text, table = start, data, _TABLE
    while at < end and table[text[at]] & _TARGET:
        at += 1
    head = Head()
    if at < end or not head._read_headers(data, line + 2, min(len(data), MAX_HEAD_BYTES)):  # noqa: SLF001
        return None
    if not head._read_framing() or head.chunked:  # noqa: SLF001 - its constructor
        return None
    query = data.find(b"?", start, end)
    head.method = method.decode("ascii")
    head.path = data[start : end if query < 0 else query].decode("ascii")
    head.query = b"" if query < 0 else data[query + 1 : end]
    head.length = max(0, head.length)
    head._keep(data)  # noqa: SLF001 - its constructor
    return head


def answer(data: bytes) -> Head | None:
    """Return the head of the answer that `data` begins with, or None.

    Its body is `chunked` or `length` bytes long.
    """
    if len(data) < 17 or not data.startswith(b"HTTP/1.1 ") or data[12] != _SPACE:
        return None
    status = _number(data[9:12], 3)
    line = data.find(b"\r\n", 13, MAX_HEAD_BYTES)
    if status < 200 or status in (204, 304) or line < 0:  # not final, or without a body
        return None
    at, text, table = 13, data, _TABLE
    while at < line and table[text[at]] & _VALUE:
        at += 1
    head = Head()
    if at < line or not head._read_headers(data, line + 2, min(len(data), MAX_HEAD_BYTES)):  # noqa: SLF001
        return None
    if not head._read_framing() or (head.length < 0 and not head.chunked):  # noqa: SLF001 - its constructor
        return None
    head.status = status
    return head


def _number(text: bytes, size: int) -> int:
    """Return the decimal number in `text`, or -1 if it is not one."""
    if not 0 < size <= _MAX_DIGITS:
        return -1
    value = 0
    for i in range(size):
        c = text[i]
        if c < _ZERO or c > _NINE:
            return -1
        value = value * 10 + (c - _ZERO)
    return value


class Chunks:
    """Decodes a chunked body (RFC 9112, 7.1). `feed` returns the content of the chunks.

    It has `stopped` for one of three reasons: the last chunk `ended` the body; the framing is `odd` (an
    extension, a trailer, no size), and a complete parser must read on; or it is `broken`, a chunk longer
    than its size. `rest` is what was not decoded. If odd, it begins with the line of a chunk's size.
    """

    def __init__(self) -> None:
        self.stopped = self.ended = self.odd = self.broken = False
        self.rest = b""
        self._left = 0  # bytes of the chunk under way, the line's end behind it included
        self._tail = b""  # the beginning of a line that has not ended

    def feed(self, data: bytes) -> bytes:
        if self._tail:
            data = self._tail + data
            self._tail = b""
        at, end, text = 0, len(data), data
        held: list[bytes] = []
        while at < end and not self.stopped:
            if self._left > 2:
                size = min(self._left - 2, end - at)
                held.append(data[at : at + size])
                self._left -= size
                at += size
            elif self._left:
                if text[at] != (_CR if self._left == 2 else _LF):
                    self.stopped = self.broken = True
                self._left -= 1
                at += 1
            else:
                at = self._begin(data, at, end)
        return held[0] if len(held) == 1 else b"".join(held)

    def _begin(self, data: bytes, at: int, end: int) -> int:
        """Read the line with a chunk's size, and the empty line behind the last one.

        Return the position behind it.
        """
        text, digits, i, size = data, _HEX, at, 0
        while i < end and i - at < 8 and digits[text[i]] < 16:
            size = size * 16 + digits[text[i]]
            i += 1
        mark = b"\r\n" if size or i == at else b"\r\n\r\n"
        found = data[i : i + len(mark)]
        if i == at or not mark.startswith(found):
            self.stopped = self.odd = True
            self.rest = data[at:]
        elif len(found) < len(mark):
            self._tail = data[at:]
            return end
        elif size == 0:
            self.stopped = self.ended = True
            self.rest = data[i + 4 :]
        else:
            self._left = size + 2
        return i + 2
