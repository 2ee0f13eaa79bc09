"""Every way in which a request to an endpoint can fail: a class for each thing that a caller can do about it.

    ProviderError            what a `Provider` raises
    ├── UnreachableError     no connection, a timeout, a broken stream: try again, then elsewhere
    ├── OverloadedError      429 or 5xx: the same, after `retry_after_s`
    ├── AuthFailedError      401 or 403: ask for credentials
    ├── ContextTooLongError  the prompt does not fit: shorten it and send it again
    └── RejectedError        any other refusal: learn a quirk from `body`, or show it
    WireError                what a decoder raises; `from_wire` turns it into one of the above

Messages carry the endpoint and the server's own words, never the prompt or a key.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from helexa_acp.provider.lenient_json import as_dict, as_object, as_str


class ProviderError(Exception):
    """The base, never raised itself."""

    retryable = False
    """Whether the same request may succeed later or at another endpoint."""

    def __init__(self, message: str, *, endpoint: str, model: str = "", status: int | None = None) -> None:
        super().__init__(message)
        self.endpoint = endpoint
        self.model = model
        self.status = status

    @property
    def data(self) -> dict[str, Any]:
        """What a client is told beside the message."""
        return {
            "endpoint": self.endpoint,
            "model": self.model,
            "status": self.status,
            "retryable": self.retryable,
        }


class UnreachableError(ProviderError):
    retryable = True


class OverloadedError(ProviderError):
    retryable = True
    retry_after_s: float | None = None


class AuthFailedError(ProviderError):
    pass


class ContextTooLongError(ProviderError):
    pass


class RejectedError(ProviderError):
    body = ""
    """The server's answer, where it refused the request with a status."""


class WireError(Exception):
    """The server reports an error inside its answer, or the answer is `cut`: it stops before its end."""

    def __init__(self, message: str, *, code: str = "", status: int | None = None, cut: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.cut = cut


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
    """Return the error for an answer with this status; `retry_after` is its header of that name."""
    text = _server_words(body)
    message = f"{endpoint} answered {status}: {text}" if text else f"{endpoint} answered {status}"
    kind = _kind(status, body)
    error = kind(message, endpoint=endpoint, model=model, status=status)
    if isinstance(error, OverloadedError):
        error.retry_after_s = parse_retry_after(retry_after)
    if isinstance(error, RejectedError):
        error.body = body
    return error


def from_wire(endpoint: str, model: str, error: WireError) -> ProviderError:
    """Return the error for what a decoder raised while it read this endpoint's answer."""
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


def _server_words(body: str) -> str:
    """Return the server's message from an error body: JSON of any shape, or a page without its tags."""
    value = as_object(body)
    if value is None:
        return " ".join(re.sub(r"<[^>]*>", " ", body).split())[:MAX_EXCERPT]
    error = value.get("error", value)
    words = as_str(error) or as_str(as_dict(error).get("message")) or as_str(value.get("detail"))
    return (words or body)[:MAX_EXCERPT]


def parse_retry_after(value: str | None) -> float | None:
    """Return the seconds of a Retry-After header, which is a number or a date (RFC 9110, 10.2.3)."""
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
    if at.tzinfo is None:
        return None
    return max(0.0, (at - datetime.now(UTC)).total_seconds())
