"""What a schema may ask of values that a notation writes without JSON's quotes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from neuron.text.grammar import UnenforceableSchemaError
from neuron.text.schema import Schema

TEXT_RULES = frozenset({"pattern", "format", "minLength", "maxLength", "const"})
ARRAY_RULES = frozenset({"minItems", "maxItems", "uniqueItems", "contains", "prefixItems"})
OBJECT_RULES = frozenset({"minProperties", "maxProperties", "patternProperties", "propertyNames"})


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
