"""Rewrites a client's JSON Schema into one that says the same in the keywords that grammars know.

What asks nothing goes, what can be said otherwise is, references lead to `$defs`, and annotations go. Nothing
is compiled here and nothing is matched: it takes time linear in the schema.
"""

from __future__ import annotations

from typing import Any

from neuron.text.json_schema import keywords
from neuron.text.json_schema.keywords import TYPES, applies
from neuron.text.json_schema.problem import Place, SchemaError
from neuron.text.json_schema.references import References
from neuron.text.json_schema.rules import Given, KeywordRules
from neuron.text.schema import Schema

MAX_DEPTH = 100  # steps of a pointer


class Normaliser(KeywordRules):
    """The rewriting of one schema. What is left out for want of a way is in `unenforced`, unless `is_strict`.

    `places` has the pointer of each schema in the result, by its identity.
    """

    def __init__(self, root: Schema, *, is_strict: bool) -> None:
        self.unenforced: list[str] = []
        self.places: dict[int, str] = {}
        self._root = root
        self._is_strict = is_strict
        self._names: dict[str, str] = {}  # of definitions, by their pointers
        self._waiting: list[tuple[str, Any, Place]] = []
        dialect = str(root.get("$schema", "")).rstrip("#/")
        self._ref_stands_alone = dialect.endswith(keywords.REF_STANDS_ALONE)
        self._references = References(root, ref_stands_alone=self._ref_stands_alone)

    def normalise(self) -> Schema:
        """The rewritten schema. Raises `SchemaError` for a malformed one, and for what strict forbids."""
        root = self._node(self._root, Place())
        definitions: Schema = {}
        while self._waiting:
            name, given, place = self._waiting.pop()
            definitions[name] = self._node(given, place)
        if not isinstance(root, dict):
            if not root:
                raise SchemaError("", "no value satisfies it")
            root = {}
        if definitions:
            root["$defs"] = definitions
        self.places[id(root)] = ""
        return root

    # --- one schema --------------------------------------------------------------------------------------

    def _node(self, given: Any, place: Place) -> Schema | bool:
        if isinstance(given, bool):
            return given
        if not isinstance(given, dict):
            raise SchemaError(place.pointer, "a schema is an object, true or false")
        if place.depth > MAX_DEPTH:
            raise SchemaError(place.pointer, "the schema is nested too deeply")
        place = self._references.enter(given, place)
        if self._ref_stands_alone and "$ref" in given:
            given = {"$ref": given["$ref"]}
        types = self._types(given, place)
        out: Schema = {}
        self.places[id(out)] = place.pointer
        for keyword, value in given.items():
            rule = self.rules.get(keyword)
            if rule is None or not applies(keyword, types):
                continue
            if rule(self, out, value, place / keyword, given) is False:
                return False
        return out

    def _types(self, given: Given, place: Place) -> set[str]:
        wanted = given.get("type", list(TYPES))
        names = wanted if isinstance(wanted, list) else [wanted]
        for name in names:
            if name not in TYPES:
                raise SchemaError(
                    f"{place.pointer}/type", f"{keywords.shown(name)} is not a type of JSON Schema"
                )
        return set(names)

    def _unsupported(self, place: Place, reason: str) -> None:
        """Leave a keyword out, by name. Raises `SchemaError` when the schema is strict."""
        if self._is_strict:
            raise SchemaError(place.pointer, reason)
        self.unenforced.append(place.pointer)

    def _reference(self, reference: str, place: Place) -> tuple[Any, Place] | None:
        return self._references.resolve(reference, place.base)

    def _define(self, target: Any, where: Place) -> str:
        if where.pointer not in self._names:
            self._names[where.pointer] = str(len(self._names))
            self._waiting.append((self._names[where.pointer], target, where))
        return f"#/$defs/{self._names[where.pointer]}"

    def _also(self, out: Schema, schema: Schema | bool, place: Place) -> None:
        """Have `out` hold `schema`, too."""
        if isinstance(schema, dict):
            self.places.setdefault(id(schema), place.pointer)
        out["allOf"] = [*out.get("allOf", ()), schema]
