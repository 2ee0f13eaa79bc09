"""Errors in place of an answer: in a 200 stream, as an event, inside a choice."""

from __future__ import annotations

import http
from typing import Any

import msgspec

from fleet.translation.events import Failure

BAD_GATEWAY = 502

TOO_LARGE = Failure(BAD_GATEWAY, "upstream_malformed", "the upstream sent more in one event than is allowed")
MALFORMED = Failure(BAD_GATEWAY, "upstream_malformed", "the upstream sent an event that is not a chat chunk")
NOT_AN_ANSWER = Failure(BAD_GATEWAY, "upstream_malformed", "the upstream's answer is not a chat completion")
CUT = Failure(BAD_GATEWAY, "upstream_cut", "the upstream's answer broke off before its end")

_STATUS_BY_TYPE = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "rate_limit_error": 429,
    "api_error": 500,
    "server_error": 500,
    "internal_server_error": 500,
    "overloaded_error": 503,
    "service_unavailable_error": 503,
}


def failure_of(error: Any) -> Failure:
    """The `Failure` of an upstream's error object or bare text; the status is 502 where it gives none."""
    if not isinstance(error, dict):
        return Failure(BAD_GATEWAY, "upstream_error", str(error) or "the upstream failed without saying why")
    code = error.get("code")
    message = error.get("message") or error.get("detail") or error.get("error") or "the upstream failed"
    return Failure(_status(error), code if isinstance(code, str) and code else "upstream_error", str(message))


def failure_in(data: bytes) -> Failure | None:
    """The error that an event's data states, as `{"error": …}` or `{"code", "message"}`; None without one."""
    try:
        payload = msgspec.json.decode(data)
    except (ValueError, RecursionError):
        return None
    match payload:
        case {"error": error} if error:
            return failure_of(error)
        case {"message": str()}:
            return failure_of(payload)
        case _:
            return None


class _Alone(msgspec.Struct):
    """What a whole answer of any endpoint has, if it is one, and an error."""

    error: Any = None
    choices: msgspec.Raw = msgspec.Raw()
    data: msgspec.Raw = msgspec.Raw()  # embeddings
    count: msgspec.Raw = msgspec.Raw()  # of tokens


_whole = msgspec.json.Decoder(_Alone)


def failure_alone(body: bytes) -> Failure | None:
    """The error that a whole answer states in place of one; None of an answer, or of what is no JSON."""
    if body.find(b'"error"') < 0:  # `in` would take a number first, and make and drop an exception
        return None
    try:
        found = _whole.decode(body)
    except (ValueError, RecursionError):
        return None
    given = {bytes(part) for part in (found.choices, found.data, found.count)}
    if not found.error or given - {b"", b"null", b"[]"}:
        return None
    return failure_of(found.error)


def _status(error: dict[str, Any]) -> int:
    for name in ("status", "status_code", "code"):
        value = error.get(name)
        if isinstance(value, int) and http.HTTPStatus.BAD_REQUEST <= value < 600:
            return value
    kind = error.get("type")
    return _STATUS_BY_TYPE.get(kind, BAD_GATEWAY) if isinstance(kind, str) else BAD_GATEWAY
