"""From a body's bytes to a struct of known parameters, and how an error names the one that is wrong."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from neuron.wire import ApiError

Body = TypeVar("Body")

_PLACE = re.compile(r" - at `(?:key` in `)?\$\.?(.*)`$")
_MISSING = re.compile(r"missing required field `(.*?)`")
_UNKNOWN = re.compile(r"unknown field `(.*?)`")


def decode_body(decoder: msgspec.json.Decoder[Body], body: bytes) -> Body:
    """A body whose parameters are all known and well typed. Raises `ApiError`."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _wrong(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, "malformed_json", f"The body is not valid JSON: {error}.") from error


def require_model(model: Any) -> None:
    if model is msgspec.UNSET:
        raise ApiError(400, "missing_model_field", "The body must name a model.", param="model")


def refuse_unless_neutral(body: Any, neutral: dict[str, tuple[Any, ...]]) -> None:
    """Refuse parameters that say something else than what happens anyway."""
    for name, values in neutral.items():
        if getattr(body, name) not in values:
            raise unsupported(name, f"{name} is not supported.")


def unsupported(param: str, message: str) -> ApiError:
    return ApiError(400, "unsupported_parameter", message, param=param)


def invalid(param: str, message: str) -> ApiError:
    return ApiError(400, "invalid_request_body", message, param=param)


def _wrong(text: str) -> ApiError:
    place = _PLACE.search(text)
    param = place[1] if place else ""
    reason = _PLACE.sub("", text)
    if unknown := _UNKNOWN.search(reason):
        param = f"{param}.{unknown[1]}".lstrip(".")
        return ApiError(400, "unknown_parameter", f"There is no parameter {param}.", param=param)
    if missing := _MISSING.search(reason):
        param = f"{param}.{missing[1]}".lstrip(".")
        reason = "is required"
    message = f"{param or 'body'}: {reason[0].lower()}{reason[1:]}."
    return ApiError(400, "invalid_request_body", message, param=param or None)
