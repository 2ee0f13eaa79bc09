"""The requests in a batch's file, each a line of JSON, checked before any of them is sent."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec

from cortex_site.config import current


class BatchFileError(Exception):
    """Why a batch cannot be run: the line, counted from one, and the field."""

    def __init__(self, code: str, message: str, line: int | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.line = line
        self.param = param

    def as_json(self) -> dict[str, Any]:
        return {"code": self.code, "message": self.message, "line": self.line, "param": self.param}


class BatchLine(msgspec.Struct):
    custom_id: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
    method: str
    url: str
    body: msgspec.Raw


class _Body(msgspec.Struct):
    model: Annotated[str, msgspec.Meta(min_length=1)]
    stream: bool | None = None


_lines = msgspec.json.Decoder(BatchLine)
_bodies = msgspec.json.Decoder(_Body)


def read_lines(path: Path, endpoint: str) -> list[BatchLine]:
    """The requests of a file, all for `endpoint`. Raises `BatchFileError` for the first line that is none."""
    most, seen = current().batches.max_requests, dict[str, int]()
    found: list[BatchLine] = []
    with path.open("rb") as stream:
        for number, text in enumerate(stream, start=1):
            if not text.strip():
                continue
            line = _read(text, number, endpoint)
            if (first := seen.setdefault(line.custom_id, number)) != number:
                message = f"The custom_id {line.custom_id!r} is that of line {first}, too."
                raise BatchFileError("duplicate_custom_id", message, number, "custom_id")
            found.append(line)
            if len(found) > most:
                raise BatchFileError("too_many_requests", f"A batch has {most} requests at most.", number)
    if not found:
        raise BatchFileError("empty_file", "The file has no requests.")
    return found


def _read(text: bytes, number: int, endpoint: str) -> BatchLine:
    try:
        line = _lines.decode(text)
        body = _bodies.decode(line.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BatchFileError("invalid_json_line", f"The line is no request: {error}.", number) from None
    if line.method != "POST":
        raise BatchFileError("invalid_method", f"method: 'POST', and not {line.method!r}.", number, "method")
    if line.url != endpoint:
        raise BatchFileError(
            "invalid_url", f"url: the batch is for {endpoint}, not {line.url!r}.", number, "url"
        )
    if body.stream:
        raise BatchFileError("invalid_value", "Answers in a batch are not streamed.", number, "body.stream")
    return line
