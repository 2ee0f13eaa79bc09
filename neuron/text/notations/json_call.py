"""One call as a JSON object, in the spellings that models use."""

from __future__ import annotations

import re
from typing import Any

from neuron.text.notations.parser import dumps, loads
from neuron.text.notations.python_literal import literal_as_json

NAME_KEYS = ("name", "tool_name", "function")
ARGUMENT_KEYS = ("arguments", "parameters")
_OTHER_KEYS = ("id", "tool_call_id", "type", "index", "function_call")

_STRING = r'"(?:[^"\\]|\\.)*"'
_PAIR = rf"""(?:"(?:{"|".join(_OTHER_KEYS)})"\s*:\s*(?:{_STRING}|\d+)\s*,\s*)?"""
# Both end where the arguments' first member begins, so that what follows cannot change them. A name with "<"
# in it may be cut off by a marker.
JSON_HEAD = re.compile(
    rf"""\{{\s*{_PAIR}"(?:{"|".join(NAME_KEYS)})"\s*:\s*("(?:[^"\\<]|\\.)*")\s*,\s*"""
    rf"""{_PAIR}"(?:{"|".join(ARGUMENT_KEYS)})"\s*:\s*(?=\{{\s*["}}])"""
)
KEYED_HEAD = re.compile(r'\{\s*("(?:[^"\\<]|\\.)*")\s*:\s*(?=\{\s*["}])')
_FIRST_KEY = re.compile(r"""\{[\s{]*(?:["'](\w*)(["'])?)?""")


def may_be_call(text: str) -> bool:
    """Whether an object that begins with `text` may be a call, by its first key."""
    key = _FIRST_KEY.match(text)
    if not key:
        return False
    if key[2]:
        return key[1] in NAME_KEYS + ARGUMENT_KEYS + _OTHER_KEYS
    return key.end() == len(text)


def read_call(text: str) -> tuple[str, str] | None:
    """Name and arguments (JSON text) of an object that is a call; None when it is none."""
    call = _read(text)
    if isinstance(call, dict):
        for key in ("function", "function_call"):
            inner = call.get(key)
            call = inner if isinstance(inner, dict) else call
    if not isinstance(call, dict):
        return None
    name = next((call[key] for key in NAME_KEYS if key in call), None)
    arguments = next((call[key] for key in ARGUMENT_KEYS if key in call), None) or {}
    if isinstance(arguments, str):
        arguments = _read(arguments)
    return _call(name, arguments)


def read_keyed_call(text: str) -> tuple[str, str] | None:
    """As `read_call`, of `{"NAME": {arguments}}`."""
    call = _read(text)
    if not isinstance(call, dict) or len(call) != 1:
        return None
    return _call(*next(iter(call.items())))


def _call(name: Any, arguments: Any) -> tuple[str, str] | None:
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        return None
    return name, dumps(arguments)


def _read(text: str) -> Any:
    """The value of JSON, of a Python literal, or of either in doubled braces."""
    value = loads(text)
    if value is None and (literal := literal_as_json(text)):
        value = loads(literal)
    if value is None and text.startswith("{{") and text.endswith("}}"):
        return _read(text[1:-1])
    return value
