"""The keywords that assert something (JSON Schema draft 4 to 2020-12), by what they say something about.

All other keywords are annotations to a validator, and to us.
"""

from __future__ import annotations

import math
import sys
from typing import Any, TypeGuard

from neuron.text.json_schema.problem import SchemaError

TYPES = ("null", "boolean", "object", "array", "number", "string", "integer")

STRINGS = {"minLength", "maxLength", "pattern", "format"}
NUMBERS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
ARRAYS = {
    *("items", "additionalItems", "prefixItems", "unevaluatedItems", "minItems", "maxItems", "uniqueItems"),
    *("contains", "minContains", "maxContains"),
}
OBJECTS = {
    *("properties", "patternProperties", "additionalProperties", "unevaluatedProperties", "propertyNames"),
    *("required", "minProperties", "maxProperties", "dependentRequired", "dependentSchemas", "dependencies"),
}
ANYTHING = {
    *("type", "enum", "const", "$ref", "$dynamicRef", "$recursiveRef", "allOf", "anyOf", "oneOf"),
    *("not", "if", "then", "else"),
}
IN_PLACE = {"$ref", "$dynamicRef", "$recursiveRef", "allOf", "anyOf", "oneOf", "if", "dependentSchemas"}

# The ends of the names of dialects in which nothing counts beside a `$ref`.
REF_STANDS_ALONE = ("draft-03/schema", "draft-04/schema", "draft-06/schema", "draft-07/schema")

# Formats that the library has expressions for. The others are annotations (2020-12 validation, section 7.2).
FORMATS = {
    *("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"),
}


WIDEST = 2**53
WIDEST_INTEGER = 2**63 - 1024  # the last double below 2^63
MAX_SHOWN_CHARS = 100
MAX_DOUBLE = sys.float_info.max


def applies(keyword: str, types: set[str]) -> bool:
    """Whether `keyword` says anything about values of these types."""
    if keyword in ANYTHING:
        return True
    about = {"string": STRINGS, "array": ARRAYS, "object": OBJECTS, "number": NUMBERS, "integer": NUMBERS}
    return any(keyword in about.get(type_, ()) for type_ in types)


def is_number(value: Any) -> bool:
    if isinstance(value, int):
        return not isinstance(value, bool)
    return isinstance(value, float) and math.isfinite(value)


def count(value: Any, pointer: str) -> int:
    """The value of a keyword that counts. Raises `SchemaError`."""
    number = integral(value)
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise SchemaError(pointer, f"expected a whole number from 0 on, got {shown(value)}")
    return number


def other_types(types: str | list[str]) -> list[str]:
    """The types of the values that have none of `types`; empty when types cannot say it."""
    refused = {types} if isinstance(types, str) else set(types)
    if "integer" in refused and "number" not in refused:
        return []
    return [type_ for type_ in TYPES if type_ != "integer" and type_ not in refused]


def shown(value: Any) -> str:
    """The beginning of a value, for a message."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}…"


def is_names(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def integral(value: Any) -> Any:
    """The same JSON value with whole numbers as integers: 1.0 is 1 to JSON Schema."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [integral(item) for item in value]
    if isinstance(value, dict):
        return {key: integral(item) for key, item in value.items()}
    return value


def inward(bound: float, *, is_lower: bool, is_integer: bool) -> int | float:
    """The bound as a double that admits no number beyond it, and within what the library can write.

    An outer bound beyond `WIDEST` becomes that: narrower than asked for, and never wrong.
    """
    widest = WIDEST_INTEGER if is_integer else WIDEST
    if is_lower and bound < -widest:
        return -widest
    if not is_lower and bound > widest:
        return widest
    nearest = float(bound) if abs(bound) < MAX_DOUBLE else math.copysign(MAX_DOUBLE, bound)
    if is_lower and nearest < bound:
        nearest = math.nextafter(nearest, math.inf)
    if not is_lower and nearest > bound:
        nearest = math.nextafter(nearest, -math.inf)
    return int(nearest) if nearest.is_integer() else nearest
