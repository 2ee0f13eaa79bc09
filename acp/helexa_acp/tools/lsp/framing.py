"""The frames of the Language Server Protocol: a head with the length of the JSON that follows it."""

from __future__ import annotations

import json
from typing import Any

MAX_HEAD_BYTES = 8 * 1024
MAX_BODY_BYTES = 32 * 1024 * 1024
_END = b"\r\n\r\n"


class BadFrameError(Exception):
    """What a server writes is not the protocol. Nothing after it can be read."""


def encode(message: dict[str, Any]) -> bytes:
    body = json.dumps({"jsonrpc": "2.0", **message}).encode()
    return b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


class FrameSplitter:
    """Finds messages in a stream of bytes, each byte of which is looked at once."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._num_searched = 0
        self._length: int | None = None  # of the body that is awaited

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Return the messages that are complete now. Raises BadFrameError."""
        self._buffer += data
        messages = []
        while (body := self._body()) is not None:
            messages.append(_message(body))
        return messages

    def _body(self) -> bytes | None:
        if self._length is None and not self._take_head():
            return None
        length = self._length or 0
        if len(self._buffer) < length:
            return None
        body = bytes(self._buffer[:length])
        del self._buffer[:length]
        self._length = None
        return body

    def _take_head(self) -> bool:
        end = self._buffer.find(_END, max(0, self._num_searched - len(_END)))
        if end < 0:
            self._num_searched = len(self._buffer)
            if self._num_searched > MAX_HEAD_BYTES:
                raise BadFrameError("a head has no end")
            return False
        self._length = _length(bytes(self._buffer[:end]))
        del self._buffer[: end + len(_END)]
        self._num_searched = 0
        return True


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        digits = value.strip()
        if name.strip().lower() == b"content-length" and digits.isdigit() and len(digits) < 10:
            if int(digits) > MAX_BODY_BYTES:
                break
            return int(digits)
    raise BadFrameError(f"a head without a usable length: {head[:200]!r}")


def _message(body: bytes) -> dict[str, Any]:
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadFrameError(f"not JSON: {error}") from error
    if not isinstance(message, dict):
        raise BadFrameError("a message is not an object")
    return message
