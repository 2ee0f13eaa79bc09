"""`oneOf` whose alternatives exclude each other is `anyOf`, which grammars can express."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import combinations
from typing import Any

from neuron.text.json_schema.keywords import TYPES
from neuron.text.schema import Schema

MAX_HOPS = 8  # from reference to reference
MAX_ALTERNATIVES = 200  # each is compared with each


def settle_one_of(root: Schema) -> None:
    """Make each `oneOf` of a normalised schema an `anyOf` where its alternatives exclude each other."""
    proofs = _Proofs(root.get("$defs", {}))
    for node in subschemas(root, deep=True):
        options = node.get("oneOf")
        if options and "anyOf" not in node and proofs.are_disjoint(options):
            one_of_to_any_of(node)


def one_of_to_any_of(node: Schema) -> None:
    """Rename the keyword in its place: the order of keywords is that of properties."""
    items = [("anyOf" if key == "oneOf" else key, value) for key, value in node.items()]
    node.clear()
    node.update(items)


def subschemas(node: Schema, *, deep: bool = False) -> Iterator[Schema]:
    """The schemas right below a normalised one; with `deep` itself and all below it, definitions included."""
    if deep:
        yield node
    for key, value in node.items():
        if key in {"enum", "const", "required", "type"}:
            continue
        children = value.values() if key in _MAPS else value if isinstance(value, list) else [value]
        for child in children:
            if isinstance(child, dict):
                yield from subschemas(child, deep=True) if deep else [child]


_MAPS = {"properties", "patternProperties", "$defs"}


class _Proofs:
    """Shows of pairs of schemas that no value follows both, as far as can be seen. Each is tried once."""

    def __init__(self, definitions: Schema) -> None:
        self._definitions = definitions
        self._known: dict[tuple[int, int], bool] = {}

    def are_disjoint(self, options: list[Any]) -> bool:
        if len(options) > MAX_ALTERNATIVES:
            return False
        return all(self._exclude(one, other) for one, other in combinations(options, 2))

    def _exclude(self, one: Any, other: Any) -> bool:
        one, other = self._resolved(one), self._resolved(other)
        if one is False or other is False:
            return True
        if not isinstance(one, dict) or not isinstance(other, dict):
            return False
        pair = id(one), id(other)
        if pair not in self._known:
            self._known[pair] = False  # as long as it is being tried: a circle proves nothing
            self._known[pair] = self._parts_exclude(one, other) or self._values_exclude(one, other)
        return self._known[pair]

    def _parts_exclude(self, one: Schema, other: Schema) -> bool:
        for node, opposite in ((one, other), (other, one)):
            for key in ("anyOf", "oneOf"):
                if key in node and all(self._exclude(option, opposite) for option in node[key]):
                    return True
            if any(self._exclude(part, opposite) for part in node.get("allOf", ())):
                return True
        return False

    def _values_exclude(self, one: Schema, other: Schema) -> bool:
        left, right = _values(one), _values(other)
        if left is not None and right is not None:
            return not left & right
        common = _types(one) & _types(other)
        return not common or (common == {"object"} and self._objects_exclude(one, other))

    def _objects_exclude(self, one: Schema, other: Schema) -> bool:
        """Whether a property that one of them requires cannot be in both."""
        names = dict.fromkeys([*one.get("required", ()), *other.get("required", ())])
        return any(self._exclude(_property(one, name), _property(other, name)) for name in names)

    def _resolved(self, node: Any) -> Any:
        for _ in range(MAX_HOPS):
            if not isinstance(node, dict) or set(node) != {"$ref"}:
                break
            node = self._definitions.get(node["$ref"].rpartition("/")[2])
        return node


def _property(node: Schema, name: str) -> Any:
    if name in node.get("properties", {}):
        return node["properties"][name]
    return True if node.get("patternProperties") else node.get("additionalProperties", True)


def _values(node: Schema) -> set[str] | None:
    """The values that `node` lists, as JSON; None when it does not."""
    listed = [node["const"]] if "const" in node else node.get("enum")
    return None if listed is None else {json.dumps(value, sort_keys=True) for value in listed}


def _types(node: Schema) -> set[str]:
    """The types of a node's values; an integer is a number."""
    if (values := _values(node)) is not None:
        return {_type_of(json.loads(value)) for value in values}
    types = node.get("type", list(TYPES))
    return {
        "number" if name == "integer" else name for name in ([types] if isinstance(types, str) else types)
    }


def _type_of(value: Any) -> str:
    if value is None:
        return "null"
    kinds = ((bool, "boolean"), (dict, "object"), (list, "array"), (str, "string"))
    return next((name for kind, name in kinds if isinstance(value, kind)), "number")
