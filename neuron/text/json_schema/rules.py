"""What becomes of each keyword of a JSON Schema: kept, said otherwise, or left out by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from neuron.text.json_schema import keywords
from neuron.text.json_schema.keywords import integral, inward, is_names, is_number, shown
from neuron.text.json_schema.objects import dependency, object_of_names
from neuron.text.json_schema.patterns import conjuncts
from neuron.text.json_schema.problem import Place, SchemaError
from neuron.text.schema import Schema

MAX_COUNT = 10_000  # of items and properties that a grammar can count
MAX_DEPENDENCIES = 4  # each doubles the shapes of an object
MAX_HOPS = 8  # from reference to reference

Given = dict[str, Any]
Rule = Callable[[Any, Schema, Any, Place, Given], bool | None]


class KeywordRules:
    """The rules, a method each: they write into `out` what a keyword's `value` asks for.

    A rule returns False when no value satisfies the schema. What they need of the walk is in `Normaliser`.
    """

    unenforced: list[str]

    def _node(self, given: Any, place: Place) -> Schema | bool:
        """The rewritten subschema."""
        raise NotImplementedError

    def _reference(self, reference: str, place: Place) -> tuple[Any, Place] | None:
        """The client's schema that a reference leads to."""
        raise NotImplementedError

    def _define(self, target: Any, where: Place) -> str:
        """A reference to the definition that the client's schema `target` becomes."""
        raise NotImplementedError

    def _unsupported(self, place: Place, reason: str) -> None:
        """Leave a keyword out, by name. Raises `SchemaError` when the schema is strict."""
        raise NotImplementedError

    def _also(self, out: Schema, schema: Schema | bool, place: Place) -> None:
        """Have `out` hold `schema`, too."""
        raise NotImplementedError

    def _type(self, out: Schema, value: Any, place: Place, given: Given) -> None:
        names = list(dict.fromkeys(value)) if isinstance(value, list) else value
        choices = given.get("enum")
        if given.get("nullable") is True and isinstance(choices, list) and None in choices:  # OpenAPI 3.0
            names = list(dict.fromkeys([*(names if isinstance(names, list) else [names]), "null"]))
        out["type"] = names

    def _enum(self, out: Schema, value: Any, place: Place, given: Given) -> None:
        if not isinstance(value, list):
            raise SchemaError(place.pointer, "expected an array")
        out["enum"] = integral(value)

    def _const(self, out: Schema, value: Any, place: Place, given: Given) -> None:
        out["const"] = integral(value)

    def _count(self, out: Schema, value: Any, place: Place, given: Given) -> None:
        keyword = place.keyword
        count = keywords.count(value, place.pointer)
        if count > MAX_COUNT and "Length" not in keyword:
            self._unsupported(place, f"a grammar counts up to {MAX_COUNT}")
        elif count or keyword.startswith("max"):
            out[keyword] = count
        required = given.get("required")
        if keyword == "minProperties" and count > max(1, len(required) if is_names(required) else 0):
            self._unsupported(place, "names that the schema does not list may repeat, and count once")

    def _bound(self, out: Schema, value: Any, place: Place, given: Given) -> None:
        keyword = place.keyword
        if keyword.startswith("exclusive") and isinstance(value, bool):  # draft 4
            if value and is_number(given.get(plain := keyword[9:].lower())):
                out[keyword] = self._inward(given[plain], plain, given)
        elif not is_number(value):
            raise SchemaError(place.pointer, f"expected a number, got {shown(value)}")
        elif keyword != "multipleOf":
            out[keyword] = self._inward(value, keyword, given)
        elif value <= 0:
            raise SchemaError(place.pointer, f"expected a number above 0, got {shown(value)}")
        else:
            out[keyword] = integral(value)

    def _inward(self, value: float, keyword: str, given: Given) -> float:
        is_lower = keyword.lower().endswith("minimum")
        return inward(value, is_lower=is_lower, is_integer=given.get("type") == "integer")

    def _pattern(self, out: Schema, value: Any, place: Place, given: Given) -> None:
        if not isinstance(value, str):
            raise SchemaError(place.pointer, "expected a string")
        first, *others = conjuncts(value)
        out["pattern"] = first
        for other in others:
            self._also(out, {"pattern": other}, place)

    def _format(self, out: Schema, value: Any, place: Place, given: Given) -> None:
        if isinstance(value, str) and value in keywords.FORMATS:
            out["format"] = value

    def _schema(self, out: Schema, value: Any, place: Place, given: Given) -> None:
        out[place.keyword] = self._node(value, place)

    def _schemas(self, out: Schema, value: Any, place: Place, given: Given) -> None:
        if not isinstance(value, list) or not value:
            raise SchemaError(place.pointer, "expected an array of schemas")
        keyword = place.keyword
        nodes = [self._node(item, place / index) for index, item in enumerate(value)]
        if keyword == "allOf":
            nodes = [*out.get("allOf", ()), *nodes]
        out[keyword] = nodes

    def _map(self, out: Schema, value: Any, place: Place, given: Given) -> None:
        if not isinstance(value, dict):
            raise SchemaError(place.pointer, "expected an object of schemas")
        keyword = place.keyword
        nodes = {name: self._node(schema, place / name) for name, schema in value.items()}
        out[keyword] = {name: _as_object(node) for name, node in nodes.items()}

    def _items(self, out: Schema, value: Any, place: Place, given: Given) -> None:
        if not isinstance(value, list):
            out["items"] = self._node(value, place)
            return
        out["prefixItems"] = [self._node(item, place / index) for index, item in enumerate(value)]
        if "additionalItems" in given:
            out["items"] = self._node(given["additionalItems"], _beside(place, "additionalItems"))

    def _required(self, out: Schema, value: Any, place: Place, given: Given) -> None:
        if not is_names(value):
            raise SchemaError(place.pointer, "expected an array of names")
        if value:
            out["required"] = list(dict.fromkeys(value))

    def _ref(self, out: Schema, value: Any, place: Place, given: Given) -> None:
        found = self._reference(value, place) if isinstance(value, str) else None
        if found is None:
            self._unsupported(place, f"the reference {shown(value)} leads out of the schema or nowhere")
        else:
            out["$ref"] = self._define(*found)

    def _dynamic_ref(self, out: Schema, value: Any, place: Place, given: Given) -> None:
        self._unsupported(place, "dynamic references cannot be enforced")

    def _not(self, out: Schema, value: Any, place: Place, given: Given) -> bool | None:
        before = len(self.unenforced)
        refused = self._node(value, place)
        is_whole = len(self.unenforced) == before  # or what is refused would be more than what was asked
        del self.unenforced[before:]
        if is_whole and _is_true(refused):
            return False
        types = refused.get("type") if is_whole and isinstance(refused, dict) and len(refused) == 1 else None
        if types is not None and (others := keywords.other_types(types)):
            self._also(out, {"type": others}, place)
        elif refused is not False:
            self._unsupported(place, "a grammar cannot say what a value is not")
        return None

    def _unique_items(self, out: Schema, value: Any, place: Place, given: Given) -> None:
        if not isinstance(value, bool):
            raise SchemaError(place.pointer, "expected true or false")
        if value and given.get("maxItems", 2) not in (0, 1):
            self._unsupported(place, "a grammar cannot compare an array's items")

    def _contains(self, out: Schema, value: Any, place: Place, given: Given) -> None:
        least = keywords.count(given.get("minContains", 1), _beside(place, "minContains").pointer)
        most = given.get("maxContains")
        if _is_true(value):
            self._also(out, {"minItems": least}, place)
            if most is not None:
                most = keywords.count(most, _beside(place, "maxContains").pointer)
                self._also(out, {"maxItems": most}, place)
        elif least or most is not None:
            self._unsupported(place, "a grammar cannot search an array")

    def _if(self, out: Schema, value: Any, place: Place, given: Given) -> None:
        branches = {name: given[name] for name in ("then", "else") if not _is_true(given.get(name, True))}
        if value is False or _is_true(value):
            taken = "else" if value is False else "then"
            if taken in branches:
                self._also(out, self._node(branches[taken], _beside(place, taken)), place)
        elif branches:
            self._unsupported(place, "a grammar cannot look back at what was written")

    def _property_names(self, out: Schema, value: Any, place: Place, given: Given) -> None:
        names = self._node(value, place)
        for _ in range(MAX_HOPS):
            if not isinstance(names, dict) or set(names) != {"$ref"}:
                break
            target = self._reference(value["$ref"], place)
            assert target  # or it would not have become a reference
            value, where = target
            names = self._node(value, where)
        allowed = object_of_names(names)
        if allowed is None:
            self._unsupported(place, "names can be held to a pattern, to lengths or to an enum, one of them")
        elif allowed:
            self._also(out, allowed, place)

    def _dependencies(self, out: Schema, value: Any, place: Place, given: Given) -> None:
        if not isinstance(value, dict):
            raise SchemaError(place.pointer, "expected an object")
        if len(value) > MAX_DEPENDENCIES:
            self._unsupported(place, f"a grammar can hold {MAX_DEPENDENCIES} dependencies")
            return
        for name, needed in value.items():
            if is_names(needed):
                self._also(out, dependency(name, {"required": list(dict.fromkeys([name, *needed]))}), place)
            else:
                node = self._node(needed, place / name)
                self._also(out, dependency(name, {"required": [name], "allOf": [node]}), place)

    def _unevaluated(self, out: Schema, value: Any, place: Place, given: Given) -> None:
        keyword = place.keyword
        own = "additionalProperties" if keyword.endswith("Properties") else "items"
        if _is_true(value) or not isinstance(given.get(own, []), list):
            return
        if keywords.IN_PLACE & set(given) or (own == "items" and "contains" in given):
            self._unsupported(place, "a grammar cannot look back at what was evaluated")
        else:
            out[own] = self._node(value, place)

    rules: ClassVar[dict[str, Rule]] = {
        "type": _type,
        "enum": _enum,
        "const": _const,
        **dict.fromkeys(
            ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"),
            _count,
        ),
        **dict.fromkeys(keywords.NUMBERS, _bound),
        "pattern": _pattern,
        "format": _format,
        "items": _items,
        "additionalProperties": _schema,
        **dict.fromkeys(("allOf", "anyOf", "oneOf", "prefixItems"), _schemas),
        **dict.fromkeys(("properties", "patternProperties"), _map),
        "required": _required,
        "$ref": _ref,
        **dict.fromkeys(("$dynamicRef", "$recursiveRef"), _dynamic_ref),
        "not": _not,
        "uniqueItems": _unique_items,
        "contains": _contains,
        "if": _if,
        "propertyNames": _property_names,
        **dict.fromkeys(("dependentRequired", "dependentSchemas", "dependencies"), _dependencies),
        **dict.fromkeys(("unevaluatedProperties", "unevaluatedItems"), _unevaluated),
    }


def _is_true(schema: Any) -> bool:
    return schema is True or schema == {}


def _as_object(node: Schema | bool) -> Schema:
    """What true and false say, for readers of properties."""
    return node if isinstance(node, dict) else {} if node else {"enum": []}


def _beside(place: Place, keyword: str) -> Place:
    return Place(place.pointer.rpartition("/")[0], place.base, place.depth - 1) / keyword
