"""How much a grammar can follow at once: beyond it, the library gives up in the middle of an answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from neuron.text.json_schema.disjoint import subschemas
from neuron.text.json_schema.problem import SchemaError
from neuron.text.schema import Schema

MAX_OPTIONAL = 500  # properties of an object; each is four of the 2,000 items that the library follows
MAX_SHAPES = 2000  # that may begin at one place
_SCALARS = {"null", "boolean", "number", "string", "integer"}  # alternatives of these are one expression


def refuse_too_much(root: Schema, places: dict[int, str]) -> None:
    """Raise `SchemaError` for an object with too many optional properties, and for too many alternatives.

    `places` has the pointers of the subschemas of the normalised schema `root`, by identity.
    """
    count = _Count(root.get("$defs", {}))
    for node in subschemas(root, deep=True):
        pointer = places.get(id(node), "")
        if (optional := count.optional(node)) > MAX_OPTIONAL:
            reason = f"{optional} properties are optional, and an object may have {MAX_OPTIONAL} of these"
            raise SchemaError(f"{pointer}/properties", reason)
        if count.shapes(node) > MAX_SHAPES:
            raise SchemaError(pointer, f"a value may begin in more than {MAX_SHAPES} ways")


class _Count:
    """Counts what is below a schema and beside it, each schema once. A circle adds nothing."""

    def __init__(self, definitions: Schema) -> None:
        self._definitions = definitions
        self._optional: dict[int, int] = {}
        self._shapes: dict[int, int] = {}

    def optional(self, node: Any) -> int:
        """The optional properties of the object that `node` and all that holds beside it make."""
        return self._once(self._optional, node, 0, self._count_optional)

    def shapes(self, node: Any) -> int:
        """In how many ways a value of `node` may begin: alternatives multiply where several hold."""
        return self._once(self._shapes, node, 1, self._count_shapes)

    def _count_optional(self, node: Schema) -> int:
        own = len(set(node.get("properties", ())) - set(node.get("required", ())))
        return own + sum(map(self.optional, self._beside(node)))

    def _count_shapes(self, node: Schema) -> int:
        ways = 1
        for options in (node.get("anyOf"), node.get("oneOf")):
            if options:
                shaped = [option for option in options if not _is_scalar(option)]
                ways *= sum(map(self.shapes, shaped)) + (len(shaped) < len(options))
        for part in self._beside(node):
            ways *= self.shapes(part)
        return min(ways, MAX_SHAPES + 1)

    def _beside(self, node: Schema) -> list[Any]:
        parts = list(node.get("allOf", ()))
        if "$ref" in node:
            parts.append(self._definitions.get(node["$ref"].rpartition("/")[2], True))
        return parts

    def _once(self, known: dict[int, int], node: Any, nothing: int, count: Callable[[Schema], int]) -> int:
        if not isinstance(node, dict):
            return nothing
        if id(node) not in known:
            known[id(node)] = nothing  # as long as it is being counted
            known[id(node)] = count(node)
        return known[id(node)]


def _is_scalar(node: Any) -> bool:
    if not isinstance(node, dict):
        return False
    if "const" in node or "enum" in node:
        values = [node["const"]] if "const" in node else node["enum"]
        return not any(isinstance(value, dict | list) for value in values)
    return node.get("type") in _SCALARS if isinstance(node.get("type"), str) else False
