"""`oneOf` whose alternatives exclude each other is `anyOf`, which grammars can express."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import combinations
from typing import Any

from neuron.text.json_schema.keywords import TYPES
from neuron.text.schema import Schema

MAX_DEPTH = 8  # of references and alternatives
MAX_ALTERNATIVES = 200  # each is compared with each


def settle_one_of(root: Schema) -> None:
    """Make each `oneOf` of a normalised schema an `anyOf` where its alternatives exclude each other."""
    definitions = root.get("$defs", {})
    for node in subschemas(root, deep=True):
        options = node.get("oneOf")
        if options and "anyOf" not in node and are_disjoint(options, definitions):
            one_of_to_any_of(node)


def one_of_to_any_of(node: Schema) -> None:
    """Rename the keyword in its place: the order of keywords is that of properties."""
    items = [("anyOf" if key == "oneOf" else key, value) for key, value in node.items()]
    node.clear()
    node.update(items)


def are_disjoint(options: list[Any], definitions: Schema) -> bool:
    """Whether no value follows two of these schemas, as far as that can be seen."""
    if len(options) > MAX_ALTERNATIVES:
        return False
    return all(_excludes(one, other, definitions, MAX_DEPTH) for one, other in combinations(options, 2))


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


def _excludes(one: Any, other: Any, definitions: Schema, depth: int) -> bool:
    one, other = _resolved(one, definitions), _resolved(other, definitions)
    if one is False or other is False:
        return True
    if not isinstance(one, dict) or not isinstance(other, dict) or not depth:
        return False
    for node, opposite in ((one, other), (other, one)):
        for key in ("anyOf", "oneOf"):
            if key in node and all(_excludes(o, opposite, definitions, depth - 1) for o in node[key]):
                return True
        if any(_excludes(part, opposite, definitions, depth - 1) for part in node.get("allOf", ())):
            return True
    if (left := _values(one)) is not None and (right := _values(other)) is not None:
        return not left & right
    common = _types(one) & _types(other)
    return not common or (common == {"object"} and _objects_exclude(one, other, definitions, depth))


def _objects_exclude(one: Schema, other: Schema, definitions: Schema, depth: int) -> bool:
    """Whether a property that one of them requires cannot be in both."""
    names = dict.fromkeys([*one.get("required", ()), *other.get("required", ())])
    return any(
        _excludes(_property(one, name), _property(other, name), definitions, depth - 1) for name in names
    )


def _property(node: Schema, name: str) -> Any:
    if name in node.get("properties", {}):
        return node["properties"][name]
    return True if node.get("patternProperties") else node.get("additionalProperties", True)


def _resolved(node: Any, definitions: Schema) -> Any:
    for _ in range(MAX_DEPTH):
        if not isinstance(node, dict) or set(node) != {"$ref"}:
            break
        node = definitions.get(node["$ref"].rpartition("/")[2])
    return node


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
