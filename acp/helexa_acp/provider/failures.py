"""A server's refusal, from its status and words, as one of our errors."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from helexa_acp.provider.errors import (
    AuthFailedError,
    ContextTooLongError,
    OverloadedError,
    ProviderError,
    RejectedError,
    UnreachableError,
)
from helexa_acp.provider.wires.adapter import WireError, as_dict, as_object, as_str

MAX_EXCERPT = 500

_TOO_LONG = re.compile(
    r"context_length_exceeded|context.{0,20}(?:length|window|size).{0,80}exceed|exceed.{0,60}context"
    r"|maximum context length|prompt is too long|too many (?:input )?tokens|input is too long",
    re.IGNORECASE,
)
_BUSY = re.compile(r"overloaded|rate.?limit|capacity|too many requests|try again", re.IGNORECASE)
_AUTH = re.compile(r"authentication_error|invalid.{0,10}api.?key|permission_error", re.IGNORECASE)


def from_status(
    endpoint: str, model: str, status: int, body: str, retry_after: str | None = None
) -> ProviderError:
    text = _words(body)
    message = f"{endpoint} answered {status}: {text}" if text else f"{endpoint} answered {status}"
    kind = _kind(status, body)
    error = kind(message, endpoint=endpoint, model=model, status=status)
    if isinstance(error, OverloadedError):
        error.retry_after_s = parse_retry_after(retry_after)
    return error


def from_wire(endpoint: str, model: str, error: WireError) -> ProviderError:
    """An error that came inside the stream, or a stream that stopped."""
    message = f"{endpoint}: {str(error)[:MAX_EXCERPT]}"
    if error.cut:
        return UnreachableError(message, endpoint=endpoint, model=model)
    kind = _kind(error.status or 0, f"{error.code} {error}")
    return kind(message, endpoint=endpoint, model=model, status=error.status)


def _kind(status: int, text: str) -> type[ProviderError]:
    if status in {401, 403} or (status == 0 and _AUTH.search(text)):
        return AuthFailedError
    if status in {0, 400, 413, 422, 500} and _TOO_LONG.search(text):
        return ContextTooLongError
    if status in {408, 409, 425, 429} or status >= 500 or (status == 0 and _BUSY.search(text)):
        return OverloadedError
    return RejectedError


def _words(body: str) -> str:
    value = as_object(body)
    if value is None:
        return " ".join(re.sub(r"<[^>]*>", " ", body).split())[:MAX_EXCERPT]
    error = value.get("error", value)
    words = as_str(error) or as_str(as_dict(error).get("message")) or as_str(value.get("detail"))
    return (words or body)[:MAX_EXCERPT]


def parse_retry_after(value: str | None) -> float | None:
    """Seconds, from a number or an HTTP date."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (at - datetime.now(UTC)).total_seconds()) if at.tzinfo else None
