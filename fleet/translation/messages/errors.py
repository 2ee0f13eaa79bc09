"""Errors in Anthropic's envelope."""

from __future__ import annotations

import msgspec

from neuron.wire import ApiError

_TYPE_BY_STATUS = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def error_body(error: ApiError) -> bytes:
    """The body of an error answer; its message begins with the path, which the envelope has no field for."""
    message = f"{error.param}: {error.message}" if error.param else error.message
    kind = _TYPE_BY_STATUS.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    details = {"error_code": error.code}
    return msgspec.json.encode(
        {"type": "error", "error": {"type": kind, "message": message, "details": details}}
    )


def error_event(error: ApiError) -> bytes:
    """The event that ends a broken stream."""
    return b"event: error\ndata: " + error_body(error) + b"\n\n"
