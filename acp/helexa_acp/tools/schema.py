"""Validation of arguments by a tool's JSON schema, limited to the keywords that the built-in tools use."""

from __future__ import annotations

from typing import Any

from helexa_acp.tools.errors import ToolError

_TYPES: dict[str, tuple[type[Any], ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}


def check(schema: dict[str, Any], value: Any, where: str = "arguments") -> None:
    """Check a value. Raises ToolError, whose message names the field."""
    kind = schema.get("type")
    if isinstance(kind, str) and not _is_a(kind, value):
        raise ToolError(f"{where} must be of type {kind}, not {type(value).__name__}")
    if "enum" in schema and value not in schema["enum"]:
        raise ToolError(f"{where} must be one of {', '.join(map(str, schema['enum']))}")
    if "minimum" in schema and value < schema["minimum"]:
        raise ToolError(f"{where} must be at least {schema['minimum']}")
    if isinstance(value, dict):
        _check_object(schema, value, where)
    if isinstance(value, list) and "items" in schema:
        for place, item in enumerate(value):
            check(schema["items"], item, f"{where}[{place}]")


def _is_a(kind: str, value: Any) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _TYPES[kind])


def _check_object(schema: dict[str, Any], value: dict[str, Any], where: str) -> None:
    properties = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            raise ToolError(f"{where}: {name!r} is missing")
    unknown = value.keys() - properties.keys()
    if unknown and schema.get("additionalProperties") is False:
        raise ToolError(f"{where}: {min(unknown)!r} is not known; there are {', '.join(properties)}")
    for name, item in value.items():
        if name in properties:
            check(properties[name], item, name)
