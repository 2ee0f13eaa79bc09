"""JSON Schemas of answers and of tools' arguments, as the library takes them.

`neuron.text.json_schema` turns what clients send into what is meant here: schemas that grammars can enforce.
"""

from __future__ import annotations

import json
from typing import Any

Schema = dict[str, Any]

ANY_OBJECT: Schema = {"type": "object"}

_SPACING = r"[ ]?|\n[ ]{0,32}"  # room for pretty printing, but none to go on for ever
_ALL_ESCAPES = 'nrbtf\\"u'
_SHORT_ESCAPES = 'nrbtf\\"'
_MAPS = {"properties", "patternProperties", "$defs", "definitions"}
_DATA = {"enum", "const", "default", "examples"}


def grammar_source(schema: Schema) -> str:
    """The schema as llguidance takes it, with the white space and the escapes that answers may have.

    The library lets the names of additional properties be spelled with escapes: beside `a` there could be
    `\\u0061`, which is `a` again to whoever reads the answer. Names that match a pattern have one spelling.
    Hence additional properties that may be anything are written as a pattern; where that would change what
    the schema says, it has no `\\uXXXX` at all, and loses a few control characters.
    """
    keys = _Keys(has_patterns="patternProperties" in json.dumps(schema))  # patterns have to be disjoint
    source = keys.one_spelling(schema)
    escapes = _ALL_ESCAPES if keys.are_settled else _SHORT_ESCAPES
    return json.dumps(
        source | {"x-guidance": {"whitespace_pattern": _SPACING, "json_allowed_escapes": escapes}}
    )


class _Keys:
    """Gives the names of properties one spelling each, unless `are_settled` says that it could not."""

    def __init__(self, *, has_patterns: bool) -> None:
        self.are_settled = True
        self._has_patterns = has_patterns

    def one_spelling(self, node: Any) -> Any:
        if isinstance(node, list):
            return [self.one_spelling(item) for item in node]
        if not isinstance(node, dict):
            return node
        rewritten = {key: self._value(key, value) for key, value in node.items()}
        named = [*node.get("properties", ()), *node.get("required", ())]
        if any(not name.isprintable() for name in named):
            self.are_settled = False
        is_open = node.get("additionalProperties", True) is not False
        if not is_open or not (named or node.get("patternProperties")):
            return rewritten
        if self._has_patterns or node.get("additionalProperties", True) not in (True, {}):
            self.are_settled = False
            return rewritten
        return _settled(rewritten)

    def _value(self, key: str, value: Any) -> Any:
        if key in _DATA:
            return value
        if key in _MAPS:
            return {name: self.one_spelling(schema) for name, schema in value.items()}
        return self.one_spelling(value)


def _settled(node: Schema) -> Schema:
    """The open object with its additional properties as a pattern, which stands where `properties` does."""
    rest = {"patternProperties": {"": True}, "additionalProperties": False}
    first = "properties" if "properties" in node else "required"
    settled: Schema = {}
    for key, value in node.items():
        if key != "additionalProperties":
            settled[key] = value
        if key == first:
            settled |= rest
    return settled
