"""Parameters' values, as families write them between tags, and what they are in JSON.

A value's text does not tell its type: the tool's schema does. Where that allows text only, the value is its
text; where it allows something else, JSON is read, then Python's way to write the same (`{'a': True}`,
`None`), and what is neither stays text. Everything that comes out is JSON, whatever the model wrote.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import Any

from neuron.text.notations.parser import loads
from neuron.text.notations.python_literal import literal_as_json
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
        waiting += [referred(part.get("$ref"), root)]
        for keyword in ("anyOf", "oneOf", "allOf"):
            waiting += _list(part, keyword)


def _list(schema: Schema, keyword: str) -> list[Any]:
    value = schema.get(keyword)
    return value if isinstance(value, list) else []


def _kind(value: Any) -> str:
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return kinds.get(type(value), "null")


def referred(reference: Any, root: Schema) -> Any:
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
    found: str | None = stripped
    if loads(stripped) is None:  # a literal's words may be bare, so that without a type any text might be one
        found = literal_as_json(stripped) if kinds else None
    return found if found is not None and _may_be(loads(found), kinds) else quoted(text)


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
