"""Whether a recursive schema comes to an end: a grammar of one that does not never lets an answer stop."""

from __future__ import annotations

from typing import Any

from neuron.text.json_schema.problem import SchemaError
from neuron.text.schema import Schema


def refuse_endless(root: Schema, places: dict[int, str]) -> None:
    """Raise `SchemaError` for a normalised schema of which every value would be infinitely deep.

    `places` has the pointers of its subschemas, by identity.
    """
    definitions = root.get("$defs", {})
    ending: set[str] = set()
    while more := {name for name, node in definitions.items() if name not in ending and _ends(node, ending)}:
        ending |= more
    if not _ends(root, ending):
        endless = next(node for name, node in definitions.items() if name not in ending)
        raise SchemaError(places.get(id(endless), ""), "its references lead back to it without an end")


def _ends(node: Any, ending: set[str]) -> bool:
    """Whether `node` has a finite value, given the names of definitions that have one."""
    if not isinstance(node, dict):
        return True
    if "$ref" in node and node["$ref"].rpartition("/")[2] not in ending:
        return False
    if not all(_ends(part, ending) for part in node.get("allOf", ())):
        return False
    for key in ("anyOf", "oneOf"):
        if key in node and not any(_ends(option, ending) for option in node[key]):
            return False
    return all(_ends(child, ending) for child in _inevitable(node))


def _inevitable(node: Schema) -> list[Any]:
    """The schemas of what every value of `node` holds."""
    if node.get("type") == "object":
        properties = node.get("properties", {})
        return [properties[name] for name in node.get("required", ()) if name in properties]
    if node.get("type") == "array" and node.get("minItems", 0):
        prefix = node.get("prefixItems", [])[: node["minItems"]]
        return [*prefix, node.get("items", True)] if len(prefix) < node["minItems"] else prefix
    return []
