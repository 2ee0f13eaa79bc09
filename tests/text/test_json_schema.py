"""What is enforced of clients' schemas, what is left out by name, and what is refused with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from neuron.text.json_schema.bounds import MAX_OPTIONAL, MAX_SHAPES
from neuron.text.json_schema.check import check_schema
from neuron.text.json_schema.rules import KeywordRules
from tests.stubs.byte_matcher import drawn, schema_admits

MADE = [json.loads(line) for line in Path(__file__).with_name("made_schemas.jsonl").read_text().splitlines()]
# What grammars cannot say of it: look-aheads in the middle of an expression, and items that differ.
NOT_STRICT = {
    **dict.fromkeys(("zod duration",), "/pattern"),
    **dict.fromkeys(("pydantic set", "pydantic conset", "pydantic frozenset"), "/uniqueItems"),
}
RULES = list(KeywordRules.rules)
STRING, NUMBER = {"type": "string"}, {"type": "number"}
A, B = {"type": "object", "properties": {"a": NUMBER}}, {"type": "object", "properties": {"b": NUMBER}}


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    checked = check_schema(schema, is_strict=True)
    assert checked.problem is None, (checked.pointer, checked.problem)
    assert checked.unenforced == ()
    return checked.schema


@pytest.mark.parametrize("made", MADE, ids=[made["name"] for made in MADE])
def test_what_zod_and_pydantic_write_is_taken(made):
    name = made["name"].partition(",")[0]
    lenient = check_schema(made["schema"], is_strict=False)
    assert lenient.problem is None
    checked = check_schema(made["schema"], is_strict=True)
    if pointer := NOT_STRICT.get(name):
        assert (checked.pointer, lenient.unenforced) == (pointer, (pointer,))
    else:
        assert checked.problem is None
        assert lenient == checked


@pytest.mark.parametrize(
    ("asks_nothing", "plain"),
    [
        ({"type": "array", "uniqueItems": False}, {"type": "array"}),
        ({"type": "object", "propertyNames": True}, {"type": "object"}),
        ({"type": "object", "propertyNames": {"type": "string", "title": "Key"}}, {"type": "object"}),
        ({"type": "array", "contains": STRING, "minContains": 0}, {"type": "array"}),
        ({"type": "string", "minLength": 1.0}, {"type": "string", "minLength": 1}),
        ({"type": "string", "format": "phone"}, {"type": "string"}),
        ({"type": "string", "uniqueItems": True}, {"type": "string"}),
        ({"type": "array", "uniqueItems": True, "maxItems": 1}, {"type": "array", "maxItems": 1}),
        ({"if": {"required": ["a"]}}, {}),
        ({"not": False, "type": "string"}, {"type": "string"}),
        ({"const": 1.0, "title": "t", "default": 2, "x-order": 3}, {"const": 1}),
        ({"type": "object", "unevaluatedProperties": True}, {"type": "object"}),
    ],
)
def test_what_asks_nothing_goes(asks_nothing, plain):
    assert strict(asks_nothing) == plain


@pytest.mark.parametrize(
    ("schema", "admitted", "refused"),
    [
        ({"properties": {"a": {"not": {}}}, "type": "object"}, '{"b":1}', '{"a":1}'),
        ({"not": {"type": ["string", "null"]}}, "1", '"x"'),
        ({"type": "object", "propertyNames": {"pattern": "^x_"}}, '{"x_a":1}', '{"a":1}'),
        ({"type": "object", "propertyNames": {"enum": ["a", "b"]}}, '{"b":1}', '{"c":1}'),
        ({"type": "object", "propertyNames": {"maxLength": 2}}, '{"ab":1}', '{"abc":1}'),
        ({"type": "object", "propertyNames": False}, "{}", '{"a":1}'),
        ({**A, "propertyNames": {"pattern": "^b"}}, '{"b":"x"}', '{"a":1}'),
        ({"type": "array", "contains": True}, "[1]", "[]"),
        ({"type": "array", "contains": {}, "maxContains": 1}, "[1]", "[1,2]"),
        ({**A, "unevaluatedProperties": False}, '{"a":1}', '{"b":1}'),
        ({"type": "array", "prefixItems": [STRING], "unevaluatedItems": False}, '["x"]', '["x",1]'),
        ({"type": "array", "items": [STRING], "additionalItems": NUMBER}, '["x",1]', '["x","y"]'),
        ({**A, "dependentRequired": {"a": ["c"]}}, '{"a":1,"c":2}', '{"a":1}'),
        ({**A, "dependencies": {"a": {"required": ["c"]}}}, '{"c":2}', '{"a":1}'),
        ({"if": True, "then": STRING, "else": NUMBER}, '"x"', "1"),
        ({"type": "string", "pattern": r"^(?=.*\d)(?=.*[a-z])[a-z\d]{3}$"}, '"a1b"', '"abc"'),
        ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": STRING}}, '"x"', "1"),
        ({"$ref": "#word", "$defs": {"w": {"$anchor": "word", **STRING}}}, '"x"', "1"),
        ({"type": "string", "nullable": True, "enum": ["a", None]}, "null", '"b"'),
        ({"type": "integer", "maximum": 2**63 - 1}, "7", "9223372036854775808"),
        ({"type": "number", "minimum": 4, "exclusiveMinimum": True}, "5", "4"),
        ({"type": "integer", "minimum": 3, "maximum": 10**400}, "7", "2"),
        ({"type": "number", "minimum": -3.5e38, "maximum": 3}, "-7", "4"),
    ],
)  # fmt: skip
def test_what_can_be_said_otherwise_is_enforced(schema, admitted, refused):
    enforced = strict(schema)
    assert schema_admits(enforced, admitted)
    assert not schema_admits(enforced, refused)


def test_what_stands_beside_a_reference_counts_by_the_draft():
    schema = {"$ref": "#/definitions/a", "maxLength": 1, "definitions": {"a": STRING}}
    assert not schema_admits(strict(schema), '"long"')
    assert schema_admits(strict({"$schema": "http://json-schema.org/draft-07/schema#"} | schema), '"long"')


def test_alternatives_that_exclude_each_other_need_no_count():
    kinds = [
        {"type": "object", "properties": {"kind": {"const": kind}, kind: STRING}, "required": ["kind"]}
        for kind in ("a", "b")
    ]
    schema = {
        "oneOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}],
        "$defs": dict(zip("ab", kinds, strict=True)),
    }
    assert schema_admits(strict(schema), '{"kind":"b","b":"x"}')
    assert not schema_admits(strict(schema), '{"kind":"a","a":1}')


@pytest.mark.parametrize(
    ("schema", "pointers"),
    [
        ({"type": "array", "items": {"type": "array", "uniqueItems": True}}, ["/items/uniqueItems"]),
        ({"oneOf": [A, B]}, ["/oneOf"]),
        ({"properties": {"a/b": {"pattern": "a(?=b)"}}}, ["/properties/a~1b/pattern"]),
        ({"type": "object", "properties": {"a": {}}, "minProperties": 1}, ["/minProperties"]),
        ({"not": {"uniqueItems": True}}, ["/not"]),
        ({"$ref": "https://example.org/s.json"}, ["/$ref"]),
        ({"if": A, "then": B}, ["/if"]),
        ({"$defs": {"s": {"contains": STRING}}, "items": {"$ref": "#/$defs/s"}}, ["/$defs/s/contains"]),
        ({"patternProperties": {"a": STRING, "b": NUMBER}}, ["/patternProperties"]),
        ({"maxItems": 10**9}, ["/maxItems"]),
        ({"type": "object", "minProperties": 2, "required": ["a"]}, ["/minProperties"]),
        ({"pattern": "^" + 20 * "(?=a)"}, ["/pattern"]),
        ({"pattern": "^(?=a)*b"}, ["/pattern"]),
        ({"pattern": "^(?=a)b|c"}, ["/pattern"]),
        ({"pattern": "^(?=(a"}, ["/pattern"]),
        ({"allOf": [{"contains": A}, {"uniqueItems": True}]}, ["/allOf/0/contains", "/allOf/1/uniqueItems"]),
    ],
)
def test_what_cannot_be_enforced_is_named_and_refused_when_strict(schema, pointers):
    lenient = check_schema(schema, is_strict=False)
    assert lenient.problem is None
    assert list(lenient.unenforced) == pointers
    refused = check_schema(schema, is_strict=True)
    assert refused.pointer.startswith(pointers[0])
    assert refused.problem


def test_the_rest_of_a_lenient_schema_holds():
    schema = {
        **A,
        "required": ["a"],
        "oneOf": [B, {}],
        "properties": {"a": {"type": "array", "uniqueItems": True}},
    }
    checked = check_schema(schema, is_strict=False)
    assert sorted(checked.unenforced) == ["/oneOf", "/properties/a/uniqueItems"]
    assert not schema_admits(checked.schema, '{"b":1}')


@pytest.mark.parametrize("is_strict", [False, True])
@pytest.mark.parametrize(
    ("schema", "pointer"),
    [
        ({"type": "objekt"}, "/type"),
        ({"properties": {"a": {"type": ["string", 1]}}}, "/properties/a/type"),
        ({"minLength": "3"}, "/minLength"),
        ({"maxItems": -1}, "/maxItems"),
        ({"minimum": "3"}, "/minimum"),
        ({"multipleOf": 0}, "/multipleOf"),
        ({"pattern": 3}, "/pattern"),
        ({"properties": []}, "/properties"),
        ({"items": 3}, "/items"),
        ({"anyOf": {}}, "/anyOf"),
        ({"allOf": []}, "/allOf"),
        ({"required": True}, "/required"),
        ({"enum": "a"}, "/enum"),
        ({"uniqueItems": 1}, "/uniqueItems"),
        ({"dependencies": []}, "/dependencies"),
        ({"contains": {}, "minContains": "x"}, "/minContains"),
        ({"items": {"minimum": float("inf")}}, "/items/minimum"),
    ],
)
def test_a_malformed_schema_is_refused_at_its_place(schema, pointer, is_strict):
    checked = check_schema(schema, is_strict=is_strict)
    assert checked.problem
    assert checked.pointer == pointer


@pytest.mark.parametrize(
    "schema", [{"not": {}}, {"allOf": [STRING, NUMBER]}, {"enum": []}, {"$ref": "#/a", "a": False}]
)
@pytest.mark.parametrize("is_strict", [False, True])
def test_a_schema_that_nothing_satisfies_is_refused(schema, is_strict):
    assert "no value satisfies it" in (check_schema(schema, is_strict=is_strict).problem or "")


def test_deep_and_circular_schemas_end():
    deep: dict[str, Any] = {}
    for _ in range(500):
        deep = {"items": deep}
    assert "nested too deeply" in (check_schema(deep, is_strict=False).problem or "")
    assert check_schema({"$ref": "#"}, is_strict=False).problem
    assert check_schema({"propertyNames": {"$ref": "#/propertyNames"}}, is_strict=True).problem
    assert check_schema({"allOf": [{"$ref": "#"}]}, is_strict=True).problem
    endless = {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]}
    assert "without an end" in (check_schema(endless, is_strict=False).problem or "")
    assert check_schema({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, is_strict=True).problem
    children = {"type": "object", "properties": {"next": {"$ref": "#"}}, "additionalProperties": False}
    assert schema_admits(strict(children), '{"next":{"next":{}}}')


def test_the_whole_reason_is_given():
    checked = check_schema({"pattern": "a(?=b)"}, is_strict=True)
    assert "look-around" in (checked.problem or "")  # the last of several lines


def test_too_many_optional_properties_or_shapes_are_refused_at_the_door():
    def optional(count: int) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {f"p{i}": {} for i in range(count)},
            "additionalProperties": False,
        }

    def shapes(count: int) -> dict[str, Any]:
        return {"items": {"anyOf": [{"type": "array", "minItems": i} for i in range(count)]}}

    assert schema_admits(strict(optional(MAX_OPTIONAL)), '{"p3":1,"p9":2}')
    checked = check_schema({"items": optional(MAX_OPTIONAL + 1)}, is_strict=False)
    assert checked.pointer == "/items/properties"
    assert str(MAX_OPTIONAL) in (checked.problem or "")
    parts = [{"properties": {f"{part}{i}": {} for i in range(300)}} for part in "ab"]
    assert check_schema({"type": "object", "allOf": parts}, is_strict=False).problem
    checked = check_schema(shapes(MAX_SHAPES + 1), is_strict=False)
    assert (checked.pointer, bool(checked.problem)) == ("/items", True)
    twice = [{"anyOf": [{"type": "array", "minItems": i} for i in range(50)]} for _ in range(2)]
    assert check_schema({"allOf": twice}, is_strict=False).problem
    assert strict({"enum": [f"word {i}" for i in range(3000)]})  # one expression, however many words


@pytest.mark.parametrize(
    "schema",
    [
        A,
        {**A, "additionalProperties": STRING},
        {**A, "additionalProperties": {}},
        {"allOf": [A, B]},
        {"type": "object", "required": ["a"]},
        {"type": "object", "patternProperties": {"^a$": NUMBER}, "additionalProperties": STRING},
        {"anyOf": [A, {"type": "object", "additionalProperties": STRING}]},
        {**A, "propertyNames": {"pattern": "^[a-z]+$"}},
    ],
)
def test_a_name_has_one_spelling(schema):
    enforced = strict(schema)
    assert schema_admits(enforced, '{"a":1}')
    for smuggled in ('{"a":1,"\\u0061":"x"}', '{"a":1,"\\u0061":[]}', '{"\\u0061":"x"}'):
        assert not schema_admits(enforced, smuggled)


def test_strings_keep_their_escapes():
    assert schema_admits(strict(A), '{"b":"\\u001b[31m\\n"}')
    assert schema_admits(strict(A), '{"tab\\t":1}')


LEAVES = st.sampled_from([
    STRING, NUMBER, {"type": "integer", "minimum": 3}, {"const": "x"}, {"enum": [1, "y", None]},
    {"type": "boolean"}, {"not": {"type": "string"}}, {"type": "string", "maxLength": 2},
    {"format": "colour", "type": "string"},
])  # fmt: skip


def _objects(properties: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)[::2]} | more


MORE = st.sampled_from([
    {}, {"additionalProperties": False}, {"additionalProperties": NUMBER}, {"unevaluatedProperties": False},
    {"propertyNames": {"pattern": "^[abc]"}}, {"propertyNames": {"enum": ["a", "b", "c"]}},
    {"minProperties": 1}, {"minProperties": 2}, {"maxProperties": 2},
    {"dependentRequired": {"a": ["b"]}}, {"not": {"type": "null"}}, {"propertyNames": {"minLength": 1}},
])  # fmt: skip
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(_objects, st.dictionaries(st.sampled_from(["a", "b", "cd"]), inner, max_size=3), MORE),
        st.builds(lambda items, more: {"type": "array", "items": items, "maxItems": 2} | more, inner,
                  st.sampled_from([{}, {"contains": True}, {"prefixItems": [STRING]}, {"minItems": 1.0}])),
        st.lists(inner, min_size=1, max_size=3).map(lambda options: {"anyOf": options}),
        st.lists(inner, min_size=1, max_size=2).map(lambda options: {"oneOf": options}),
        st.lists(inner, min_size=1, max_size=2).map(lambda parts: {"allOf": parts}),
    ),
    max_leaves=5,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(schema=SCHEMAS, seed=st.integers(0, 2**32))
def test_every_text_of_a_strict_schema_is_valid(schema, seed):
    checked = check_schema(schema, is_strict=True)
    if checked.problem is None and (text := drawn(checked.schema, seed)):
        jsonschema.Draft202012Validator(schema).validate(json.loads(text))


ANYTHING = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just("#/properties")
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from([*RULES, "$id", "$anchor", "$schema", "nullable", "then"]), inner, max_size=4
        ),
    ),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None)
@given(
    schema=st.dictionaries(st.sampled_from([*RULES, "$id", "minContains", "else"]), ANYTHING, max_size=5),
    is_strict=st.booleans(),
)
@example(schema={"enum": 5, "type": "string", "nullable": True}, is_strict=True)
@example(schema={"minProperties": 2, "required": True}, is_strict=True)
@example(schema={"$id": "http://[", "$ref": "//["}, is_strict=True)
@example(schema={"$ref": "#/allOf/" + "9" * 5000, "allOf": [{}]}, is_strict=False)
def test_whatever_a_client_sends_is_taken_or_refused(schema, is_strict):
    checked = check_schema(schema, is_strict=is_strict)
    assert checked.problem or isinstance(checked.schema, dict)


@settings(max_examples=100, deadline=None)
@given(schema=SCHEMAS)
def test_leniency_takes_what_strictness_takes_and_names_the_rest(schema):
    whole, part = check_schema(schema, is_strict=True), check_schema(schema, is_strict=False)
    if whole.problem is None:
        assert part == whole
    elif part.problem is None:
        assert part.unenforced
