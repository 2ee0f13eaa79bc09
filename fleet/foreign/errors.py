"""The error that a server states, in the shapes that servers give it, as an `ApiError`. Pure.

`{"error": {…}}` (OpenAI, neuron), `{"error": "…"}` (Ollama, LM Studio), the same unwrapped (older vLLM), or
`{"detail": …}` (FastAPI).
"""

from __future__ import annotations

import math
import re
from typing import Any

import msgspec

from neuron.wire import ApiError

MAX_ERROR_BYTES = 1 << 20
MAX_MESSAGE_CHARS = 2000
TOO_LONG = "context_length_exceeded"

_CODES = {400: "invalid_request", 404: "not_found", 422: "invalid_request", 429: "rate_limited"}
_WORD = re.compile(r"[\w.:-]{1,64}", re.ASCII)  # codes become labels of metrics
_TOO_LONG = re.compile(r"maximum context length|exceeds? the (available )?context|exceed_context_size")


class StatedError(ApiError):
    """An error that a server stated. Its `param` is a path in the body that this server got."""


def read_error(status: int, body: bytes, retry_after: str = "") -> ApiError:
    """The `StatedError` in an answer; a 502 that quotes `status` where the body states none.

    `retry_after` is the header's value.
    """
    error = _stated(body)
    message = error.get("message")
    if status < 400 or not isinstance(message, str) or not message:
        return ApiError(502, "node_error", f"The node answered {status} without an error envelope.")
    param = error.get("param")
    return StatedError(
        status,
        _code(status, error, message),
        message[:MAX_MESSAGE_CHARS],
        param=param if isinstance(param, str) else None,
        retry_after_s=_seconds(retry_after),
    )


def _stated(body: bytes) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    error = found.get("error", found)
    if isinstance(error, str):
        return {"message": error}
    if isinstance(error, dict) and "detail" in error and "message" not in error:
        detail = error["detail"]
        return {"message": detail if isinstance(detail, str) else msgspec.json.encode(detail).decode()}
    return error if isinstance(error, dict) else {}


def _code(status: int, error: dict[str, Any], message: str) -> str:
    code = error.get("code")
    # LiteLLM's code is the status, as text.
    if isinstance(code, str) and _WORD.fullmatch(code) and not code.isdigit():
        return code
    if status == 400 and _TOO_LONG.search(f"{error.get('type')} {message}"):
        return TOO_LONG
    return _CODES.get(status, "node_error")


def _seconds(retry_after: str) -> int | None:
    """Whole seconds, rounded up; a date is not read."""
    try:
        seconds = float(retry_after)
    except ValueError:
        return None
    return math.ceil(seconds) if 0 <= seconds < 1e9 else None
