# cython: language_level=3, boundscheck=False, wraparound=False, annotation_typing=False
"""Reads what the gateway needs of a chat body, and makes small changes to it, without building its JSON.

`peek` reads the top level of an object and checks the syntax of the rest, in one pass. It returns a result
only if a full parse would certainly give the same. In all other cases (an escape in a key or in the model's
name, a key given twice, a value of another type, a syntax error) it returns None, and the caller needs a
full parse.

The file runs as plain Python; compiled, `peek.pxd` beside it adds the types that make it fast.
"""

from __future__ import annotations

COMPILED = not __file__.endswith(".py")  # as plain Python it is much slower than a full parse in C
MAX_DEPTH = 256  # of nested values; a full parse takes more

_QUOTE, _BACKSLASH, _COMMA, _COLON = 0x22, 0x5C, 0x2C, 0x3A
_OPEN_OBJECT, _CLOSE_OBJECT, _OPEN_LIST, _CLOSE_LIST = 0x7B, 0x7D, 0x5B, 0x5D
_ZERO, _NINE, _MINUS, _POINT = 0x30, 0x39, 0x2D, 0x2E
_LARGE = 1 << 14  # bytes
_MAX_DIGITS = 18  # every whole number of so many fits into 64 bits

# Kinds of bytes in a string: those that need a closer look (control characters, quote, backslash), and those
# that may follow a backslash.
_SPECIAL, _ESCAPED = 1, 2
_TABLE = bytes((c < 0x20 or c in b'"\\') * _SPECIAL | (c in b'"\\/bfnrt') * _ESCAPED for c in range(256))

_MODEL, _STREAM, _MAX_TOKENS, _MAX_COMPLETION, _CHOICES, _OPTIONS = 1, 2, 4, 8, 16, 32


def peek(body: bytes) -> Peek | None:
    """Return what `body` says, or None if it is no JSON object with a `model` or needs a full parse."""
    seen = Peek(body)
    return seen if seen._read() else None  # noqa: SLF001 - its constructor


class Peek:
    """The fields of a chat body that the gateway reads.

    A count that the body does not give is -1. The spans are those of values, and 0 if there is no such value.
    """

    def __init__(self, body: bytes) -> None:
        self.model = ""
        self.stream = False
        self.include_usage = False
        self.max_tokens = -1
        self.max_completion_tokens = -1
        self.n = -1
        self._model_start = self._model_end = 0
        self._options_start = self._options_end = 0
        self._usage_start = self._usage_end = 0
        self._options_empty = True
        self._body = body
        self._data = body
        self._at = 0
        self._end = len(body)
        self._escaped = False  # the last string had an escape
        self._found = 0  # bits of the keys that were read

    def with_model(self, model: bytes) -> bytes:
        """Return the body with another model; `model` is a JSON string, quotes included."""
        return self._replaced(self._model_start, self._model_end, model)

    def with_usage(self) -> bytes:
        """Return the body with `stream_options.include_usage` true and everything else unchanged."""
        if self._usage_end:
            return self._replaced(self._usage_start, self._usage_end, b"true")
        if not self._options_end:
            start = self._body.index(b"{") + 1
            return self._replaced(start, start, b'"stream_options":{"include_usage":true},')
        if self._data[self._options_start] != _OPEN_OBJECT:  # null
            return self._replaced(self._options_start, self._options_end, b'{"include_usage":true}')
        start = self._options_start + 1
        more = b'"include_usage":true' if self._options_empty else b'"include_usage":true,'
        return self._replaced(start, start, more)

    def _replaced(self, start: int, end: int, text: bytes) -> bytes:
        body = self._body
        if self._end < _LARGE:
            return body[:start] + text + body[end:]
        view = memoryview(body)  # copied once
        return b"".join((view[:start], text, view[end:]))

    # --- reading: methods return False, or -1, if a full parse is needed ---

    def _read(self) -> bool:
        self._space()
        if not self._members(0) or not self._found & _MODEL:
            return False
        self._space()
        return self._at == self._end

    def _members(self, level: int) -> bool:
        """Read an object. Level 0 is the body, level 1 `stream_options`; deeper ones are only checked."""
        if level > MAX_DEPTH or not self._take(_OPEN_OBJECT):
            return False
        self._space()
        if self._take(_CLOSE_OBJECT):
            return True
        while self._named_value(level):
            self._space()
            if self._take(_CLOSE_OBJECT):
                return True
            if not self._take(_COMMA):
                return False
            self._space()
        return False

    def _named_value(self, level: int) -> bool:
        start = self._at
        if not self._string() or (level < 2 and self._escaped):
            return False
        end = self._at
        self._space()
        if not self._take(_COLON):
            return False
        self._space()
        if level == 0:
            return self._member(start + 1, end - 1)
        if level == 1:
            return self._option(start + 1, end - 1)
        return self._value(level + 1)

    def _member(self, start: int, end: int) -> bool:
        size = end - start
        if size == 5 and self._is(start, b"model", 5):
            return self._once(_MODEL) and self._read_model()
        if size == 6 and self._is(start, b"stream", 6):
            return self._once(_STREAM) and self._read_stream()
        if size == 10 and self._is(start, b"max_tokens", 10):
            return self._once(_MAX_TOKENS) and self._read_count(_MAX_TOKENS)
        if size == 21 and self._is(start, b"max_completion_tokens", 21):
            return self._once(_MAX_COMPLETION) and self._read_count(_MAX_COMPLETION)
        if size == 1 and self._is(start, b"n", 1):
            return self._once(_CHOICES) and self._read_count(_CHOICES)
        if size == 14 and self._is(start, b"stream_options", 14):
            return self._once(_OPTIONS) and self._read_options()
        return self._value(2)

    def _once(self, key: int) -> bool:
        """Return False if the key was read before."""
        before = self._found
        self._found |= key
        return not before & key

    def _read_model(self) -> bool:
        start = self._at
        if not self._string() or self._escaped:
            return False
        self._model_start, self._model_end = start, self._at
        try:
            self.model = self._body[start + 1 : self._at - 1].decode()
        except UnicodeDecodeError:
            return False
        return True

    def _read_stream(self) -> bool:
        value = self._boolean()
        self.stream = value == 1
        return value >= 0

    def _boolean(self) -> int:
        """Return 1 for true, 0 for false, -1 for anything else."""
        if self._literal(b"true", 4):
            return 1
        return 0 if self._literal(b"false", 5) else -1

    def _read_count(self, key: int) -> bool:
        if self._literal(b"null", 4):
            return True
        start = self._at
        if not self._number() or self._at - start > _MAX_DIGITS:
            return False
        value = 0
        for i in range(start, self._at):
            c = self._data[i]
            if c < _ZERO or c > _NINE:
                return False  # a sign, a fraction or an exponent
            value = value * 10 + (c - _ZERO)
        if key == _MAX_TOKENS:
            self.max_tokens = value
        elif key == _MAX_COMPLETION:
            self.max_completion_tokens = value
        else:
            self.n = value
        return True

    def _read_options(self) -> bool:
        start = self._at
        if not self._literal(b"null", 4) and not self._members(1):
            return False
        self._options_start, self._options_end = start, self._at
        return True

    def _option(self, start: int, end: int) -> bool:
        self._options_empty = False
        if end - start != 13 or not self._is(start, b"include_usage", 13):
            return self._value(2)
        if self._usage_end:
            return False
        self._usage_start = self._at
        value = self._boolean()
        self.include_usage = value == 1
        self._usage_end = self._at
        return value >= 0

    # --- JSON's grammar ---

    def _value(self, level: int) -> bool:
        if self._at >= self._end:
            return False
        c = self._data[self._at]
        if c == _QUOTE:
            return self._string()
        if c == _OPEN_OBJECT:
            return self._members(level)
        if c == _OPEN_LIST:
            return self._items(level)
        if c == _MINUS or _ZERO <= c <= _NINE:
            return self._number()
        return self._literal(b"true", 4) or self._literal(b"false", 5) or self._literal(b"null", 4)

    def _items(self, level: int) -> bool:
        if level > MAX_DEPTH or not self._take(_OPEN_LIST):
            return False
        self._space()
        if self._take(_CLOSE_LIST):
            return True
        while self._value(level + 1):
            self._space()
            if self._take(_CLOSE_LIST):
                return True
            if not self._take(_COMMA):
                return False
            self._space()
        return False

    def _string(self) -> bool:
        """Read from quote to quote. Bytes over 127 are not checked, just as a full parse skips them."""
        if not self._take(_QUOTE):
            return False
        at, end, data, table, escaped = self._at, self._end, self._data, _TABLE, False
        while at < end:
            while at + 4 <= end and not (
                (table[data[at]] | table[data[at + 1]] | table[data[at + 2]] | table[data[at + 3]]) & _SPECIAL
            ):
                at += 4
            if at == end:
                return False
            c = data[at]
            if c == _QUOTE:
                self._at = at + 1
                self._escaped = escaped
                return True
            if c < 0x20:
                return False
            if c == _BACKSLASH:
                escaped = True
                if at + 1 < end and table[data[at + 1]] & _ESCAPED:
                    at += 2
                    continue
                size = self._unicode_escape(at)
                if size < 0:
                    return False
                at += size
            else:
                at += 1
        return False

    def _unicode_escape(self, at: int) -> int:
        """Return the length of the `\\uXXXX` at `at`: 6, or 12 for a surrogate pair."""
        high = self._hex(at)
        if high < 0xD800 or high > 0xDFFF:
            return -1 if high < 0 else 6
        low = self._hex(at + 6)
        return 12 if high < 0xDC00 and 0xDC00 <= low <= 0xDFFF else -1

    def _hex(self, at: int) -> int:
        """Return the value of the `\\uXXXX` at `at`."""
        if at + 6 > self._end or self._data[at] != _BACKSLASH or self._data[at + 1] != 0x75:
            return -1
        value = 0
        for i in range(at + 2, at + 6):
            c = self._data[i]
            if _ZERO <= c <= _NINE:
                value = value * 16 + c - _ZERO
            elif 0x61 <= (c | 0x20) <= 0x66:
                value = value * 16 + (c | 0x20) - 0x61 + 10
            else:
                return -1
        return value

    def _number(self) -> bool:
        if self._at < self._end and self._data[self._at] == _MINUS:
            self._at += 1
        start = self._at
        size = self._digits()
        if size == 0 or (size > 1 and self._data[start] == _ZERO):
            return False
        if self._at < self._end and self._data[self._at] == _POINT:
            self._at += 1
            if self._digits() == 0:
                return False
        if self._at < self._end and self._data[self._at] | 0x20 == 0x65:  # e
            self._at += 1
            if self._at < self._end and self._data[self._at] in b"+-":
                self._at += 1
            return self._digits() > 0
        return True

    def _digits(self) -> int:
        start = self._at
        while self._at < self._end and _ZERO <= self._data[self._at] <= _NINE:
            self._at += 1
        return self._at - start

    def _literal(self, word: bytes, size: int) -> bool:
        if self._end - self._at < size or not self._is(self._at, word, size):
            return False
        self._at += size
        return True

    def _is(self, start: int, word: bytes, size: int) -> bool:
        for i in range(size):  # noqa: SIM110 - a loop in C
            if self._data[start + i] != word[i]:
                return False
        return True

    def _take(self, c: int) -> bool:
        if self._at < self._end and self._data[self._at] == c:
            self._at += 1
            return True
        return False

    def _space(self) -> None:
        while self._at < self._end and self._data[self._at] in b" \n\r\t":
            self._at += 1
