# cython: language_level=3, boundscheck=False, wraparound=False, annotation_typing=False
"""Heads of HTTP/1.1 messages as well-behaved programs write them, read at once.

`request` and `answer` say something only where the head is there in full and a complete parser would say the
same; wherever that takes more (a name given twice, a line that is continued, a version other than 1.1, an
upgrade, a byte out of place) they return None: then parse in full.

One Python file that also runs as it stands; `http.pxd` beside it has the types that make it fast compiled.
"""

from __future__ import annotations

COMPILED = not __file__.endswith(".py")  # as Python this is slower than a complete parser in C
MAX_HEAD_BYTES = 1 << 16
_MAX_DIGITS = 15  # of a length

_CR, _LF, _SPACE, _TAB, _COLON, _SLASH, _ZERO, _NINE = 0x0D, 0x0A, 0x20, 0x09, 0x3A, 0x2F, 0x30, 0x39

# What a byte may be in: a header's name (RFC 9110, 5.6.2), its value, a target that needs no decoding.
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
    """A message's head. `headers` by name in lower case; `length` is the body's, -1 where none is named."""

    def __init__(self) -> None:
        self.method = ""
        self.path = ""
        self.query = b""
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.length = -1
        self.chunked = False
        self.keep_alive = True
        self.size = 0  # of the head, the empty line included

    def _read_headers(self, data: bytes, at: int, end: int) -> bool:
        """Lines until the empty one; False where one is not as it must be."""
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
            while stop > start and (text[stop - 1] == _SPACE or text[stop - 1] == _TAB):
                stop -= 1
            at += 2
            if name in self.headers:
                return False
            self.headers[name] = data[start:stop]

    def _weigh_headers(self) -> bool:
        """What they say of the body and of the connection; False where that is out of the ordinary."""
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
    """The head that `data` begins with, of a request whose body has `length` bytes."""
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
    if not head._weigh_headers() or head.chunked:  # noqa: SLF001 - made of these
        return None
    query = data.find(b"?", start, end)
    head.method = method.decode("ascii")
    head.path = data[start : end if query < 0 else query].decode("ascii")
    head.query = b"" if query < 0 else data[query + 1 : end]
    head.length = max(0, head.length)
    return head


def answer(data: bytes) -> Head | None:
    """The head that `data` begins with, of an answer whose body is chunked or has `length` bytes."""
    if len(data) < 17 or not data.startswith(b"HTTP/1.1 ") or data[12] != _SPACE:
        return None
    status = _number(data[9:12], 3)
    line = data.find(b"\r\n", 13, MAX_HEAD_BYTES)
    if status < 200 or status in (204, 304) or line < 0:  # no final answer, or one without a body
        return None
    at, text, table = 13, data, _TABLE
    while at < line and table[text[at]] & _VALUE:
        at += 1
    head = Head()
    if at < line or not head._read_headers(data, line + 2, min(len(data), MAX_HEAD_BYTES)):  # noqa: SLF001
        return None
    if not head._weigh_headers() or (head.length < 0 and not head.chunked):  # noqa: SLF001 - made of these
        return None
    head.status = status
    return head


def _number(text: bytes, size: int) -> int:
    """The decimal number that `text` is; -1 where it is none."""
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
    """Takes the framing off a chunked body (RFC 9112, 7.1). `feed` returns what the chunks hold.

    It has `stopped` when the last chunk `ended` the body; where it is `odd` (extension, trailer, no size), so
    that a complete parser has to read on; and where it is `broken`, a chunk longer than it said. `rest` is
    what follows: what is odd begins with a chunk.
    """

    def __init__(self) -> None:
        self.stopped = self.ended = self.odd = self.broken = False
        self.rest = b""
        self._left = 0  # of the chunk under way, the line's end behind it included
        self._tail = b""  # the beginning of a line

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
        """The line with a chunk's size, and the empty one behind the last; where the reading goes on."""
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
