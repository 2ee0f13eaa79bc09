"""What is asked of the names and of the neighbours of properties, said in `properties` and patterns."""

from __future__ import annotations

from neuron.text.notations.values import alternatives
from neuron.text.schema import Schema


def dependency(name: str, then: Schema) -> Schema:
    """A schema of objects without the property `name`, of those that follow `then`, and of other values."""
    return {"anyOf": [{"properties": {name: False}}, then]}


def outline(schema: Schema) -> Schema:
    """The names and types of an object's properties, and which it must have: any notation can say that.

    Those of its alternatives, too, all of which may be left out.
    """
    properties: Schema = {}
    for part in alternatives(schema, schema):
        properties = part.get("properties", {}) | properties
    outlined = {name: _typed(node) for name, node in properties.items() if node is not False}
    required = [name for name in schema.get("required", ()) if name in outlined]
    return {"type": "object", "properties": outlined, "required": required}


def _typed(schema: Schema | bool) -> Schema:
    type_ = schema.get("type") if isinstance(schema, dict) else None
    return {"type": type_} if isinstance(type_, str) else {}


def object_of_names(names: Schema | bool) -> Schema | None:
    """An object whose names follow the schema `names`; empty if all do, None if that cannot be said."""
    if isinstance(names, bool):
        return {} if names else {"maxProperties": 0}
    types = names.get("type", "string")
    if "string" not in (types if isinstance(types, list) else [types]):
        return {"maxProperties": 0}
    said = {keyword: value for keyword, value in names.items() if keyword not in {"type", "format"}}
    if not said:
        return {}
    if len(said) == 1 and (values := said.get("enum", [said.get("const")])) != [None]:
        listed = {name: True for name in values if isinstance(name, str)}
        return {"properties": listed, "additionalProperties": False}
    if set(said) <= {"minLength", "maxLength"}:
        return _matching(f"^(?s:.{{{said.get('minLength', 0)},{said.get('maxLength', '')}}})$")
    return _matching(said["pattern"]) if set(said) == {"pattern"} else None


def _matching(pattern: str) -> Schema:
    return {"patternProperties": {pattern: True}, "additionalProperties": False}
