"""What a node says when it does not answer, in the shapes that servers give it, as our error."""

from __future__ import annotations

import math
import re
from typing import Any

import msgspec

from fleet.gateway.http.response import UpstreamResponse
from neuron.wire import ApiError

MAX_ERROR_BYTES = 1 << 20
MAX_MESSAGE_CHARS = 2000
TOO_LONG = "context_length_exceeded"

_CODES = {400: "invalid_request", 404: "not_found", 422: "invalid_request", 429: "rate_limited"}
_WORD = re.compile(r"[\w.:-]{1,64}", re.ASCII)  # codes become labels of metrics
_TOO_LONG = re.compile(r"maximum context length|exceeds? the (available )?context|exceed_context_size")


async def read_refusal(response: UpstreamResponse) -> ApiError:
    """The answer's error; one without a word that is understood is a 502 that quotes its status.

    Closes the response. Raises `UpstreamError` when it breaks off.
    """
    try:
        body = await response.read(MAX_ERROR_BYTES)
    finally:
        response.close()
    return refusal(response.status, body, response.header(b"retry-after"))


def refusal(status: int, body: bytes, retry_after: str = "") -> ApiError:
    """`{"error": {…}}` (OpenAI), `{"error": "…"}` (Ollama, LM Studio), the same unwrapped (older vLLM), or
    `{"detail": …}` (FastAPI).
    """
    error = _error(body)
    message = error.get("message")
    if status < 400 or not isinstance(message, str) or not message:
        return ApiError(502, "node_error", f"The node answered {status} without an error envelope.")
    param = error.get("param")
    return ApiError(
        status,
        _code(status, error, message),
        message[:MAX_MESSAGE_CHARS],
        param=param if isinstance(param, str) else None,
        retry_after_s=_seconds(retry_after),
    )


def _error(body: bytes) -> dict[str, Any]:
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
    if (
        isinstance(code, str) and _WORD.fullmatch(code) and not code.isdigit()
    ):  # LiteLLM's is the status, as text
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
