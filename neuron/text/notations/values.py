"""Parameters' values, as families write them between tags, and what they are in JSON.

A value's text does not tell its type: the tool's schema does. Where that allows text only, the value is its
text; where it allows something else, JSON is read, then Python's way to write the same (`{'a': True}`,
`None`), and what is neither stays text. Everything that comes out is JSON, whatever the model wrote.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from typing import Any

from neuron.text.notations.parser import loads
from neuron.text.schema import Schema

Kinds = frozenset[str]
quoted = json.JSONEncoder(ensure_ascii=False).encode  # a text as a JSON string

TEXT: Kinds = frozenset({"string"})
ANYTHING: Kinds = frozenset()
JSON: Kinds = frozenset(
    {"object", "array", "number", "integer", "boolean", "null"}
)  # a string has its quotes
_WORDS = {"none": "null", "null": "null", "true": "true", "false": "false"}
_STRUCTURES = {"object": dict, "array": list}
# Strings and constants of a Python literal. A string that does not end takes the rest: no character is looked
# at twice.
_PYTHON = re.compile(
    r"""'((?:[^'\\]|\\.)*+)(?:'|\\?\Z)|"((?:[^"\\]|\\.)*+)(?:"|\\?\Z)|\b(True|False|None)\b""", re.DOTALL
)
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v", "0": "\0", "\n": ""}


def kinds_of(schema: Any, root: Schema) -> Kinds:
    """The JSON types that a schema allows; empty when it leaves them open. Takes time with its size only."""
    found: set[str] = set()
    for part in alternatives(schema, root):
        named = part.get("type")
        values = [*_list(part, "enum"), *([part["const"]] if "const" in part else [])]
        if isinstance(named, str):
            found.add(named)
        elif isinstance(named, list):
            found.update(kind for kind in named if isinstance(kind, str))
        else:
            found.update(_kind(value) for value in values)
        if found and part.get("nullable") is True:
            found.add("null")
    return frozenset(found)


def alternatives(schema: Any, root: Schema) -> Iterator[Schema]:
    """The schema and those it is put together from, each once; references into `root` are followed."""
    waiting, seen = [schema], set[int]()
    while waiting:
        part = waiting.pop()
        if not isinstance(part, dict) or id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        waiting += [_referred(part.get("$ref"), root)]
        for keyword in ("anyOf", "oneOf", "allOf"):
            waiting += _list(part, keyword)


def _list(schema: Schema, keyword: str) -> list[Any]:
    value = schema.get(keyword)
    return value if isinstance(value, list) else []


def _kind(value: Any) -> str:
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return kinds.get(type(value), "null")


def _referred(reference: Any, root: Schema) -> Any:
    """What a local reference, `#/$defs/city`, names; None for any other."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    found: Any = root
    for part in reference[1:].split("/")[1:]:
        found = found.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
    return found


def as_json(text: str, kinds: Collection[str] = ANYTHING) -> str:
    """The JSON text of a value that may have these types; text where it is none of them."""
    if kinds == TEXT:
        return quoted(text)
    stripped = text.strip()
    word = _WORDS.get(stripped.lower())
    if word is not None:
        return word if not kinds or _allows(kinds, json.loads(word)) else quoted(text)
    for candidate in (stripped, python_to_json(stripped)):
        value = loads(candidate)
        if value is not None:
            return candidate if _may_be(value, kinds) else quoted(text)
    return quoted(text)


def _allows(kinds: Collection[str], value: Any) -> bool:
    """Whether a bare word may be that value: where text is allowed too, only if its type is named."""
    return _kind(value) in kinds or "string" not in kinds


def _may_be(value: Any, kinds: Collection[str]) -> bool:
    """Whether a text that reads as `value` is meant so. Text that has quotes of its own keeps them."""
    if not kinds:
        return not isinstance(value, str)
    if "string" not in kinds:
        return True
    return any(kind in kinds and isinstance(value, known) for kind, known in _STRUCTURES.items())


def python_to_json(text: str) -> str:
    """A Python literal's text with its strings and constants as JSON writes them. Nothing is evaluated."""
    return _PYTHON.sub(_translated, text)


def _translated(found: re.Match[str]) -> str:
    if found[3]:
        return _WORDS[found[3].lower()]
    if len(found[0]) == 1 or found[0][-1] != found[0][0]:
        return found[0]
    return quoted(_ESCAPE.sub(_character, found[1] or found[2] or ""))


def _character(found: re.Match[str]) -> str:
    if code := found[1] or found[2] or found[3]:
        return chr(int(code, 16)) if int(code, 16) < 0x110000 else found[0]
    return _ESCAPED.get(found[4], found[4] if found[4] in "\\'\"" else found[0])


def member_of(schema: Any, name: str, root: Schema) -> Any:
    """The schema of an object's member, or of an array's items; None where nothing is said of it."""
    found = None
    for part in alternatives(schema, root):
        properties = part.get("properties")
        if isinstance(properties, dict) and name in properties:
            return properties[name]
        if name == "item" and "items" in part:
            return part["items"]
        found = found or part.get("additionalProperties")
    return found
