# cython: language_level=3, boundscheck=False, wraparound=False, annotation_typing=False
"""Encodes the chunks of a stream, which differ in their text alone, without encoding the rest each time.

The file runs as plain Python; compiled, `chunk.pxd` beside it adds the types that make it fast.
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
    """Return `text` as the content of a JSON string between two pieces of JSON.

    `before` ends with the string's opening quote, `after` begins with its closing one. Raises
    `UnicodeEncodeError` for half of a surrogate pair, which UTF-8 cannot encode.
    """
    data = text.encode()
    if not is_plain(data):
        data = _SPECIAL.sub(_escape, data)
    return b"".join((before, data, after))


def is_plain(data: bytes) -> bool:
    """Return whether no byte needs an escape in a JSON string."""
    return _is_plain(data, len(data)) if _COMPILED else _SPECIAL.search(data) is None


def _is_plain(data: bytes, end: int) -> bool:
    for i in range(end):  # noqa: SIM110 - a loop in C
        if data[i] < _SPACE or data[i] == _QUOTE or data[i] == _BACKSLASH:
            return False
    return True


def _escape(found: re.Match[bytes]) -> bytes:
    return _ESCAPES[found[0]]
