"""Values that stand without quotes: typed by the tool's schema, and JSON whatever was written."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron.text.notations.values import JSON, as_json, kinds_of

KINDS = ["string", "integer", "number", "boolean", "null", "array", "object"]
PIECES = [
    "{",
    "}",
    "[",
    "]",
    "'",
    '"',
    ",",
    ":",
    " ",
    "\\",
    "a",
    "1",
    "True",
    "None",
    "null",
    "-",
    "1e999",
    "ü",
    "\n",
]
ROOT = {
    "$defs": {
        "word": {"type": "string"},
        "loop": {"anyOf": [{"$ref": "#/$defs/loop"}, {"$ref": "#/$defs/word"}, {"type": "null"}]},
        "a/b": {"enum": [1, True]},
    }
}


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), st.frozensets(st.sampled_from(KINDS)))
def test_every_value_is_json(text, kinds):
    json.loads(as_json(text, kinds))


@given(st.text(), st.frozensets(st.sampled_from(KINDS), min_size=1))
def test_text_comes_back_where_nothing_else_fits(text, kinds):
    value = json.loads(as_json(text, kinds | {"string"}))
    assert value == text or not isinstance(value, str)


@pytest.mark.parametrize(
    ("text", "kinds", "value"),
    [
        ("123", {"string"}, "123"),
        ("123", {"integer"}, 123),
        (" 123\n", {"integer"}, 123),
        ("123", {"string", "null"}, "123"),
        ("null", {"string", "null"}, None),
        ("None", {"string", "null"}, None),
        ("null", {"string", "integer"}, "null"),
        ("TRUE", {"boolean"}, True),
        ("TRUE", {"string"}, "TRUE"),
        ("{'a': [1, True, None]}", {"object"}, {"a": [1, True, None]}),
        ('{"a": 1}', {"string", "object"}, {"a": 1}),
        ('{"a": 1}', {"string"}, '{"a": 1}'),
        ("['it''s']", {"array"}, "['it''s']"),
        ('"x"', JSON, "x"),
        ('"x"', set(), '"x"'),
        ("[INST]", set(), "[INST]"),
        ("many", {"integer"}, "many"),
        ("NaN", {"number"}, "NaN"),
        ("9" * 5000, {"integer"}, "9" * 5000),
        ("[" * 5000, {"array"}, "[" * 5000),
    ],
)
def test_a_value_has_the_type_that_the_schema_gives_it(text, kinds, value):
    assert json.loads(as_json(text, frozenset(kinds))) == value


@pytest.mark.parametrize(
    ("schema", "kinds"),
    [
        ({}, set()),
        (True, set()),
        ({"type": ["integer", "null"]}, {"integer", "null"}),
        ({"$ref": "#/$defs/word"}, {"string"}),
        ({"$ref": "#/$defs/loop"}, {"string", "null"}),
        ({"$ref": "#/$defs/a~1b"}, {"integer", "boolean"}),
        ({"$ref": "#/$defs/none"}, set()),
        ({"$ref": "http://elsewhere/"}, set()),
        ({"const": "x"}, {"string"}),
        ({"type": "string", "nullable": True}, {"string", "null"}),
        ({"oneOf": [{"type": "object"}, {"type": "array"}]}, {"object", "array"}),
    ],
)
def test_references_and_alternatives_of_a_schema_are_followed(schema, kinds):
    assert kinds_of(schema, ROOT) == kinds
