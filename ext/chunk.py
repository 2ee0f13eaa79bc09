# cython: language_level=3, boundscheck=False, wraparound=False, annotation_typing=False
"""The chunks of a stream differ in their text alone: text as a JSON string between bytes that stay the same.

One Python file that also runs as it stands; `chunk.pxd` beside it has the types that make it fast compiled.
"""

from __future__ import annotations

import re

_COMPILED = not __file__.endswith(".py")

_SPACE, _QUOTE, _BACKSLASH = 0x20, 0x22, 0x5C
_SPECIAL = re.compile(rb'[\x00-\x1f"\\]')
_ESCAPES = {b"%c" % c: b"\\u%04x" % c for c in range(0x20)} | {
    b'"': b'\\"',
    b"\\": b"\\\\",
    b"\b": b"\\b",
    b"\t": b"\\t",
    b"\n": b"\\n",
    b"\f": b"\\f",
    b"\r": b"\\r",
}


def enclose(before: bytes, text: str, after: bytes) -> bytes:
    """`before` ends with the string's opening quote, `after` begins with its closing one.

    Raises `UnicodeEncodeError` for half of a surrogate pair, which UTF-8 cannot say.
    """
    data = text.encode()
    if not (_is_plain(data, len(data)) if _COMPILED else _SPECIAL.search(data) is None):
        data = _SPECIAL.sub(_escape, data)
    return b"".join((before, data, after))


def _is_plain(data: bytes, end: int) -> bool:
    """Whether the text stands in a JSON string as it is."""
    for i in range(end):  # noqa: SIM110 - a loop in C
        if data[i] < _SPACE or data[i] == _QUOTE or data[i] == _BACKSLASH:
            return False
    return True


def _escape(found: re.Match[bytes]) -> bytes:
    return _ESCAPES[found[0]]
