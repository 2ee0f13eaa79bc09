"""Decoding request bodies into typed structs, with a 400 that names the field that does not fit."""

from __future__ import annotations

import re
from typing import Any, NoReturn, TypeVar

import msgspec

from neuron.wire import TOOL_NAME_RULE, ApiError, is_tool_name

T = TypeVar("T")

_PATH = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<path>.*)`)?$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(?P<name>.+)`$")
_UNKNOWN = re.compile(r"^Invalid (?:enum )?value (?P<value>.+)$", re.DOTALL)


def decode_body(decoder: msgspec.json.Decoder[T], body: bytes, *, at: str = "") -> T:
    """The body, or the part of one at the path `at`, as the decoder's type.

    Raises `ApiError` 400 with the path of the first field that is wrong.
    """
    try:
        return decoder.decode(body.decode())
    except msgspec.ValidationError as error:
        _reject_shape(str(error), at)
    except UnicodeDecodeError as error:
        raise ApiError(400, "invalid_json", f"The body is not UTF-8 (byte {error.start}).") from None
    except msgspec.DecodeError as error:
        raise ApiError(400, "invalid_json", f"The body is not valid JSON: {error}.") from None
    except RecursionError:
        raise ApiError(400, "invalid_json", "The body is nested too deeply.") from None


def is_given(raw: msgspec.Raw) -> bool:
    """Whether a field was sent with a value other than null."""
    return bytes(raw) not in {b"", b"null"}


def require_object(raw: msgspec.Raw, param: str) -> msgspec.Raw:
    """`raw`, which must be an object. Raises `ApiError` 400."""
    if not bytes(raw).startswith(b"{"):
        raise ApiError(400, "invalid_type", "Expected `object`.", param=param)
    return raw


class _SchemaHead(msgspec.Struct):
    type: Any = "object"


_head_decoder = msgspec.json.Decoder(_SchemaHead)


def require_object_schema(raw: msgspec.Raw, param: str) -> msgspec.Raw:
    """`raw`, which must be a schema of objects, as a call's arguments are. Raises `ApiError` 400."""
    kind = _head_decoder.decode(require_object(raw, param)).type
    if kind != "object" and not (isinstance(kind, list) and "object" in kind):
        reject(f"{param}.type", "The arguments of a call are an object, so this must be `object`.")
    return raw


def require_tool_name(name: str, param: str) -> str:
    """`name`, if models can be offered a tool of that name. Raises `ApiError` 400."""
    if not is_tool_name(name):
        reject(param, f"The name of a tool is {TOOL_NAME_RULE}.")
    return name


def reject(param: str, message: str) -> NoReturn:
    """Raise `ApiError` 400 for a field of the right type and a wrong value."""
    raise ApiError(400, "invalid_value", message, param=param)


def _reject_shape(text: str, at: str) -> NoReturn:
    found = _PATH.match(text)
    what, path = (found["what"], found["path"] or "") if found else (text, "")
    path = ".".join(part for part in (at, path) if part).replace("[...]", "")  # the dots stand for a key
    if missing := _MISSING.match(what):
        param = f"{path}.{missing['name']}" if path else missing["name"]
        raise ApiError(400, "missing_field", "This field is required.", param=param) from None
    if unknown := _UNKNOWN.match(what):
        message = f"{unknown['value']} is unknown here, or cannot be served."
        raise ApiError(400, "invalid_value", message, param=path or None) from None
    raise ApiError(400, "invalid_type", f"{what}.", param=path or None) from None
