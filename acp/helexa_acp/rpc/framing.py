"""JSON-RPC 2.0 messages in lines, read and written without I/O (jsonrpc.org/specification).

`LineSplitter` splits bytes into lines; `decode` turns a line into a message, or into the error that its
sender must get. Ids are integers, strings or null, and are echoed unchanged.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

MAX_LINE_BYTES = 64 * 1024 * 1024
MAX_OUT_BYTES = 32 * 1024 * 1024  # the longest line that the official TypeScript client reads

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
REQUEST_CANCELLED = -32800
AUTH_REQUIRED = -32000
NOT_FOUND = -32002

Id = str | int | None


class RpcError(Exception):
    """An error as an answer, in either direction."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.data = data

    def to_json(self) -> dict[str, Any]:
        body: dict[str, Any] = {"code": self.code, "message": str(self)}
        return body if self.data is None else {**body, "data": self.data}


@dataclass(frozen=True, slots=True)
class RpcRequest:
    id: Id
    method: str
    params: Any


@dataclass(frozen=True, slots=True)
class RpcNotification:
    method: str
    params: Any


@dataclass(frozen=True, slots=True)
class RpcResponse:
    id: Id
    result: Any = None
    error: RpcError | None = None


@dataclass(frozen=True, slots=True)
class Malformed:
    """A line that is no valid message. The answer is this error, with the line's id if it has a valid one."""

    id: Id
    error: RpcError


RpcMessage = RpcRequest | RpcNotification | RpcResponse | Malformed


class LineSplitter:
    """Takes bytes that may be split anywhere. A line beyond the limit is dropped as it arrives."""

    def __init__(self, limit: int = MAX_LINE_BYTES) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0
        self._dropping = False

    def feed(self, chunk: bytes) -> list[bytes | None]:
        """Return the lines that are now complete; None stands for one that is too long."""
        *ends, rest = chunk.split(b"\n")
        lines: list[bytes | None] = []
        for piece in ends:
            self._add(piece)
            lines.append(None if self._dropping else b"".join(self._parts))
            self._parts = []
            self._size = 0
            self._dropping = False
        self._add(rest)
        return lines

    def close(self) -> list[bytes | None]:
        """Return the last line, if it lacked its newline."""
        return self.feed(b"\n") if self._parts or self._dropping else []

    def _add(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > self._limit:
            self._parts = []
            self._dropping = True
        elif piece:
            self._parts.append(piece)


def decode(line: bytes | None) -> RpcMessage | None:
    """Return the message of a line, or None if the line is blank. A line of None is one too long."""
    if line is None:
        return _malformed(None, INVALID_REQUEST, f"a line is longer than {MAX_LINE_BYTES} bytes")
    if not line.strip():
        return None
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        return _malformed(None, PARSE_ERROR, f"not valid JSON: {error}")
    if isinstance(value, list):
        return _malformed(None, INVALID_REQUEST, "batches are not supported; send one message per line")
    if not isinstance(value, dict):
        return _malformed(None, INVALID_REQUEST, "a message must be a JSON object")
    return _message(value)


def _message(value: dict[str, Any]) -> RpcMessage:
    id_ = value.get("id")
    if isinstance(id_, bool) or not isinstance(id_, str | int | None):
        return _malformed(None, INVALID_REQUEST, "id must be a string, a whole number or null")
    if value.get("jsonrpc") != "2.0":
        return _malformed(id_, INVALID_REQUEST, 'jsonrpc must be "2.0"')
    if "method" in value:
        method = value["method"]
        params = value.get("params")
        if not isinstance(method, str):
            return _malformed(id_, INVALID_REQUEST, "method must be a string")
        return RpcRequest(id_, method, params) if "id" in value else RpcNotification(method, params)
    if "error" in value:
        return RpcResponse(id_, error=_error(value["error"]))
    if "result" in value:
        return RpcResponse(id_, value["result"])
    return _malformed(id_, INVALID_REQUEST, "neither a method nor a result nor an error")


def _error(value: Any) -> RpcError:
    body = value if isinstance(value, dict) else {}
    code = body.get("code")
    return RpcError(
        code if isinstance(code, int) else INTERNAL_ERROR, str(body.get("message", value)), body.get("data")
    )


def _malformed(id_: Id, code: int, message: str) -> Malformed:
    return Malformed(id_, RpcError(code, message))


def encode(message: dict[str, Any]) -> bytes:
    """Return the line of a message. Lone surrogates, which UTF-8 cannot represent, are escaped."""
    body = {"jsonrpc": "2.0", **message}
    try:
        text = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        text = json.dumps(body, separators=(",", ":")).encode()
    return text + b"\n"
