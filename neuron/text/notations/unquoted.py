"""What a schema may ask of values that a notation writes without JSON's quotes."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from neuron.text.grammar import GrammarBuilder, UnenforceableSchemaError
from neuron.text.notations.parser import loads
from neuron.text.notations.values import Kinds, alternatives, as_json, kinds_of, referred
from neuron.text.schema import Schema

MAX_DEPTH = 6  # of the values that a grammar describes
GAP = r"/[ \n]{0,2}/"
FREE_KEY = "/[A-Za-z_][A-Za-z0-9_]{0,63}/"  # of an object that lists no properties
_ANNOTATIONS = frozenset({"$comment", "default", "deprecated", "description", "examples", "title"})
TEXT_RULES = frozenset({"pattern", "format", "minLength", "maxLength", "const"})
ARRAY_RULES = frozenset({"minItems", "maxItems", "uniqueItems", "contains", "prefixItems"})
OBJECT_RULES = frozenset({"minProperties", "maxProperties", "patternProperties", "propertyNames"})
_COMBINING_RULES = frozenset({"allOf", "anyOf", "oneOf", "not", "if", "const", "enum"})
_DEPENDENCIES = frozenset({"dependencies", "dependentRequired", "dependentSchemas"})
_MEMBER_RULES = OBJECT_RULES | _COMBINING_RULES | _DEPENDENCIES
_WRITABLE_KEY = re.compile(r'[^\s<>"]([^\n<>"]*[^\s<>"])?')


class Members(NamedTuple):
    """What an object consists of: its properties in their order, and the names of those it must have.

    `others` is the schema of all members of an object that lists no properties; None where it has no others.
    """

    properties: dict[str, Any]
    required: Collection[str]
    others: Any = None


def refuse_rules(schema: Schema, rules: Collection[str]) -> None:
    """Raise `UnenforceableSchemaError` when the schema has one of these keywords."""
    if found := sorted(schema.keys() & rules):
        raise UnenforceableSchemaError(
            f"this model writes values unquoted, where {found[0]} cannot be enforced"
        )


def with_definitions(schema: Any, root: Schema) -> Schema:
    """The schema, from which references into `root` still find what they name; an empty one for a boolean."""
    known: Schema = schema if isinstance(schema, dict) else {}
    return known | {name: root[name] for name in ("$defs", "definitions") if name in root}


def members(schema: Schema, root: Schema) -> Members:
    """The members of an object, which are all that its schema asks for. A reference into `root` is followed.

    Raises `UnenforceableSchemaError` for a schema that asks for more, or for members that cannot be written.
    """
    schema = _followed(schema, root)
    refuse_rules(schema, _MEMBER_RULES)
    required = schema.get("required") or ()
    given = schema.get("properties") or {}
    written = {key: given[key] for key in given if not _is_never(given[key]) and _WRITABLE_KEY.fullmatch(key)}
    if missing := [name for name in required if name not in written]:
        raise UnenforceableSchemaError(f"this model cannot be made to write a parameter named {missing[0]!r}")
    return Members(written, required, None if given else _others(schema))


def check_choices(choices: Sequence[Any], kinds: Kinds, closer: str = "") -> None:
    """Raise `UnenforceableSchemaError` unless each choice is read back as what it is."""
    for choice in choices:
        text = written_choice(choice)
        if (closer and closer in text) or loads(as_json(text, kinds)) != choice:
            raise UnenforceableSchemaError(
                f"this model's notation of calls cannot tell that {choice!r} is meant"
            )


def written_choice(choice: Any) -> str:
    return choice if isinstance(choice, str) else json.dumps(choice, ensure_ascii=False)


def written_value(grammar: GrammarBuilder, value: Any, root: Schema, closer: str) -> str:
    """The grammar of a value without quotes and of the `closer` behind it.

    It is JSON where it cannot be text, one of its choices, or free. Raises `UnenforceableSchemaError`.
    """
    kinds = kinds_of(value, root)
    if "string" not in kinds and not asks_nothing(value):
        return f"{grammar.json(with_definitions(value, root))} {grammar.literal(closer)}"
    if kinds & {"object", "array"}:
        raise UnenforceableSchemaError("this model writes text unquoted, which may stand for an object")
    parts = list(alternatives(value, root))
    for part in parts:
        refuse_rules(part, TEXT_RULES)
    if choices := next((part["enum"] for part in parts if "enum" in part), None):
        check_choices(choices, kinds, closer.strip())
        written = " | ".join(grammar.literal(written_choice(choice)) for choice in choices)
        return f"({written}) {grammar.literal(closer)}"
    return grammar.anything_until(closer)


def asks_nothing(schema: Any) -> bool:
    """Whether any value follows the schema."""
    return schema is True or (isinstance(schema, dict) and schema.keys() <= _ANNOTATIONS)


def _others(schema: Schema) -> Any:
    """The schema of members that no property names. Tools without parameters may say so by an empty list."""
    unnamed = schema.get("additionalProperties", "properties" not in schema and "type" in schema)
    if unnamed is True:
        return {}
    return unnamed if isinstance(unnamed, dict) else None


def _is_never(schema: Any) -> bool:
    """Whether no value follows the schema, as the normaliser or a client says it."""
    return schema is False or (isinstance(schema, dict) and schema.get("anyOf") == [])


def _followed(schema: Schema, root: Schema) -> Schema:
    """The schema with what its reference names beside what it says itself."""
    seen = set[str]()
    while (reference := schema.get("$ref")) is not None:
        named = referred(reference, root)
        rest = {keyword: value for keyword, value in schema.items() if keyword != "$ref"}
        if not isinstance(named, dict) or reference in seen or _contradicts(named, rest):
            raise UnenforceableSchemaError("this model writes values unquoted, where $ref cannot be enforced")
        seen.add(reference)
        schema = named | rest
    return schema


def _contradicts(first: Schema, second: Schema) -> bool:
    """Whether one would hide what the other asks of members."""
    both = first.keys() & second.keys() & {"properties", "required", "additionalProperties"}
    return any(first[keyword] != second[keyword] for keyword in both)
