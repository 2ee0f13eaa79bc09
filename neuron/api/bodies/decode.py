"""The decoding of a body into a struct, with errors that name the parameter at fault."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from neuron.api.errors import unsupported
from neuron.wire import ApiError

Body = TypeVar("Body")

_PLACE = re.compile(r" - at `(?:key` in `)?\$\.?(.*)`$")
_MISSING = re.compile(r"missing required field `(.*?)`")
_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_UNKNOWN = re.compile(r"unknown field `(.*?)`")


def decode_body(decoder: msgspec.json.Decoder[Body], body: bytes) -> Body:
    """The struct that a body's JSON holds. Raises `ApiError` 400 for an unknown or badly typed parameter.

    An unknown parameter that is null asks for nothing.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        if _UNKNOWN.search(str(error)) and (rest := _without_nulls(body)):
            return decode_body(decoder, rest)
        raise _named_error(str(error)) from error
    except _MALFORMED as error:
        raise _malformed(error) from error


def _without_nulls(body: bytes) -> bytes:
    """The body without parameters that are null; empty where it has none.

    Raises `ApiError` 400 when it is no JSON.
    """
    try:
        given = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except _MALFORMED as error:  # behind the unknown parameter
        raise _malformed(error) from error
    kept = {name: value for name, value in given.items() if bytes(value) != b"null"}
    return msgspec.json.encode(kept) if len(kept) < len(given) else b""


def require_model(model: Any) -> None:
    """Raise `ApiError` 400 unless the body names a model."""
    if model is msgspec.UNSET:
        raise ApiError(400, "missing_model_field", "The body must name a model.", param="model")


def refuse_unless_neutral(body: Any, neutral: dict[str, tuple[Any, ...]]) -> None:
    """Raise `ApiError` 400 for a parameter with another value than its `neutral` ones, which do nothing."""
    for name, values in neutral.items():
        if getattr(body, name) not in values:
            raise unsupported(name, f"{name} is not supported.")


def _malformed(error: Exception) -> ApiError:
    return ApiError(400, "malformed_json", f"The body is not valid JSON: {error}.")


def _named_error(text: str) -> ApiError:
    """msgspec's message as an error that names the parameter."""
    place = _PLACE.search(text)
    param = place[1].replace("[...]", "") if place else ""  # the dots stand for a key
    reason = _PLACE.sub("", text)
    if unknown := _UNKNOWN.search(reason):
        param = f"{param}.{unknown[1]}".lstrip(".")
        return ApiError(400, "unknown_parameter", f"There is no parameter {param}.", param=param)
    if missing := _MISSING.search(reason):
        param = f"{param}.{missing[1]}".lstrip(".")
        reason = "is required"
    message = f"{param or 'body'}: {reason[0].lower()}{reason[1:]}."
    return ApiError(400, "invalid_request_body", message, param=param or None)
