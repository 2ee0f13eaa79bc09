"""Grammars of forced calls: they take what each family's template writes, and what they make reads back."""

from __future__ import annotations

import contextlib

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher

from neuron.text.constraint import AnswerConstraint, answer_grammar
from neuron.text.grammar import UnenforceableSchemaError
from neuron.text.notations.known import NOTATIONS
from tests.text.call_templates import TEMPLATES, notation_of, written
from tests.text.test_calls_in_tags import calls_of, read, text_of
from tests.text.test_grammar import BARE, FULL, say

F = {
    "type": "object",
    "properties": {
        "n": {"type": "integer", "minimum": 0, "maximum": 99},
        "o": {
            "type": "object",
            "properties": {
                "a": {"type": "array", "items": {"type": "string", "enum": ["x", "y"]}},
                "b": {"type": "boolean"},
            },
            "required": ["a", "b"],
            "additionalProperties": False,
        },
        "s": {"$ref": "#/$defs/word"},
        "w": {"type": "string", "enum": ["one", "two words"]},
    },
    "required": ["n"],
    "additionalProperties": False,
    "$defs": {"word": {"type": "string"}},
}
G = {"type": "object", "properties": {}, "additionalProperties": False}
TOOLS = {"f": F, "g": G}
CHOICES = {"f": F | {"properties": {key: F["properties"][key] for key in "now"}}, "g": G}  # no free text
NAMES = list(dict.fromkeys(map(notation_of, TEMPLATES)))
VALUES = [True, {}, {"type": ["string", "null"]}, {"type": "array"}, {"type": "object"}, {"enum": [1, "a"]}]
# Python's way to write a structure, which no grammar of JSON takes
WRITES_PYTHON = {"seed", "minicpm5", "functiongemma"}


def grammar_of(name, vocabulary, *, is_parallel=True, tools=TOOLS):
    constraint = AnswerConstraint(calls=list(tools.items()), must_call=True, is_parallel=is_parallel)
    notation = NOTATIONS[name].answering(">>>" if name == "functionary" else "")
    return answer_grammar(constraint, added=vocabulary.added, notation=notation, thought=None)


def takes(grammar, vocabulary, text):
    matcher = LLMatcher(vocabulary.guided, grammar)
    assert not matcher.is_error(), matcher.get_error()
    return all(map(matcher.consume_token, vocabulary.tokenizer.encode(text).ids)) and matcher.is_accepting()


@pytest.mark.parametrize("vocabulary", [FULL, BARE], ids=["tokens", "text"])
@pytest.mark.parametrize("template", TEMPLATES)
def test_what_a_template_writes_is_taken(template, vocabulary):
    structure = {} if notation_of(template) in WRITES_PYTHON else {"o": {"a": ["x", "y"], "b": True}}
    calls = [("f", {"n": 3, **structure, "s": 'ü "x" <b>\n{y}', "w": "two words"}), ("g", {})]
    text = written(template, calls).rstrip().removesuffix("<|eot|>").removesuffix("<|close|>message<|sep|>")
    grammar = grammar_of(notation_of(template), vocabulary)
    assert takes(grammar, vocabulary, text)
    assert not takes(grammar, vocabulary, "no call")


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**32), is_parallel=st.booleans())
def test_what_a_grammar_makes_reads_back(name, seed, is_parallel):
    said = say(grammar_of(name, FULL, is_parallel=is_parallel, tools=CHOICES), seed)
    events = read(name, [FULL.tokenizer.decode(said, skip_special_tokens=False)], tools=CHOICES)
    calls = calls_of(events)
    assert calls
    assert is_parallel or len(calls) == 1
    assert not text_of(events).strip()
    for called, arguments in calls:
        jsonschema.validate(arguments, CHOICES[called])


@pytest.mark.parametrize("name", [name for name in NAMES if name != "functionary"])
def test_rules_of_unquoted_text_are_refused(name):
    schema = {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}}
    schema |= {"$defs": {"a": {"type": "string", "maxLength": 3}}}
    with pytest.raises(UnenforceableSchemaError, match="maxLength"):
        grammar_of(name, FULL, tools={"f": schema})


ONE = {"type": "object", "properties": {"n": {"type": "integer", "enum": [7]}}, "required": ["n"]}
UNWRITTEN = {
    "alternatives": {"type": "object", "anyOf": [ONE, G]},
    "all of": {"type": "object", "allOf": [ONE]},
    "number of properties": {"type": "object", "minProperties": 1},
    "enum": {"type": "object", "enum": [{"n": 7}]},
    "dependency": ONE | {"dependentRequired": {"n": ["m"]}},
    "unknown member": {"type": "object", "required": ["n"]},
    "member without a name": {"type": "object", "properties": {"": {"type": "null"}}, "required": [""]},
    "member in two lines": {"type": "object", "properties": {"a\nb": {"type": "null"}}, "required": ["a\nb"]},
    "endless reference": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
}


@pytest.mark.parametrize("schema", UNWRITTEN.values(), ids=UNWRITTEN)
@pytest.mark.parametrize("name", [*(name for name in NAMES if name != "functionary"), "lfm2"])
def test_what_members_cannot_say_is_refused(name, schema):
    with pytest.raises(UnenforceableSchemaError):
        grammar_of(name, FULL, tools={"f": schema})


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_of_all_arguments_is_followed(name):
    schema = {"type": "object", "$ref": "#/$defs/f", "$defs": {"f": ONE}}
    said = say(grammar_of(name, FULL, tools={"f": schema}, is_parallel=False), seed=1)
    text = FULL.tokenizer.decode(said, skip_special_tokens=False)
    assert calls_of(read(name, [text], tools={"f": schema})) == [("f", {"n": 7})]


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("qwen-xml", [1, "x"]),
        ("qwen-xml", ["null", None]),
        ("qwen-xml", ["</parameter>"]),
        ("gemma4", [1, "x"]),
        ("functiongemma", [1, "x"]),
        ("minimax-m3", [1, "x"]),
    ],
)
def test_choices_that_would_not_read_back_are_refused(name, choices):
    with pytest.raises(UnenforceableSchemaError, match=r"meant|enum"):
        grammar_of(name, FULL, tools={"f": {"type": "object", "properties": {"a": {"enum": choices}}}})


@pytest.mark.parametrize("never", [False, {"anyOf": []}])
def test_a_member_that_nothing_follows_is_left_out(never):
    schema = {"type": "object", "properties": {"a": never, "b": {"type": "null"}}, "required": ["b"]}
    for name in NAMES[:-1]:
        said = say(grammar_of(name, FULL, tools={"f": schema}, is_parallel=False), seed=1)
        text = FULL.tokenizer.decode(said, skip_special_tokens=False)
        assert calls_of(read(name, [text], tools={"f": schema})) == [("f", {"b": None})]


@pytest.mark.parametrize("template", [name for name in TEMPLATES if name != "functionary"])
def test_choices_behind_a_reference_are_enforced(template):
    schema = {"type": "object", "properties": {"w": {"$ref": "#/$defs/w"}}, "required": ["w"]}
    schema |= {"$defs": {"w": {"type": "string", "enum": ["one", "two"]}}}
    grammar = grammar_of(notation_of(template), FULL, tools={"f": schema})
    for word in ("one", "two", "three"):
        text = written(template, [("f", {"w": word})]).rstrip()
        text = text.removesuffix("<|eot|>").removesuffix("<|close|>message<|sep|>")
        assert takes(grammar, FULL, text) == (word != "three")


FREE = {"type": "object"}
CALL = [("f", {"city": 'Zürich "A" <b>', "days": 3, "flag": True})]


@pytest.mark.parametrize("vocabulary", [FULL, BARE], ids=["tokens", "text"])
@pytest.mark.parametrize("schema", [FREE, FREE | {"additionalProperties": True}], ids=["silent", "open"])
@pytest.mark.parametrize("template", TEMPLATES)
def test_an_object_that_lists_no_properties_takes_any(template, schema, vocabulary):
    name = notation_of(template)
    call = [("f", {"days": 3})] if name in WRITES_PYTHON else CALL
    grammar = grammar_of(name, vocabulary, tools={"f": schema})
    for calls in (call, [("f", {})]):
        text = written(template, calls).rstrip()
        text = text.removesuffix("<|eot|>").removesuffix("<|close|>message<|sep|>")
        assert takes(grammar, vocabulary, text)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_members_of_the_models_choice_read_back(name, seed):
    counts = FREE | {"additionalProperties": {"type": "integer"}}
    said = say(grammar_of(name, FULL, tools={"f": counts}, is_parallel=False), seed)
    events = read(name, [FULL.tokenizer.decode(said, skip_special_tokens=False)], tools={"f": counts})
    [(called, arguments)] = calls_of(events)
    jsonschema.validate(arguments, counts)
    assert (called, text_of(events).strip()) == ("f", "")


@pytest.mark.parametrize("schema", [{}, FREE | {"properties": {}}, FREE | {"additionalProperties": False}])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "functionary"])
def test_a_tool_without_parameters_is_called_without(name, schema):
    said = say(grammar_of(name, FULL, tools={"f": schema}, is_parallel=False), 1)
    text = FULL.tokenizer.decode(said, skip_special_tokens=False)
    assert calls_of(read(name, [text], tools={"f": schema})) == [("f", {})]


def test_members_of_a_map_follow_its_schema():
    counts = {"type": "object", "additionalProperties": {"type": "boolean"}}
    schema = {"type": "object", "properties": {"c": counts}, "required": ["c"]}
    grammar = grammar_of("gemma4", FULL, tools={"f": schema})
    assert takes(grammar, FULL, written("gemma4", [("f", {"c": {"a": True}})]))
    assert not takes(grammar, FULL, written("gemma4", [("f", {"c": {"a": 1}})]))


@pytest.mark.parametrize("name", NAMES)
def test_any_schema_of_a_parameter_has_a_grammar_or_a_reason(name):
    for value in VALUES:
        with contextlib.suppress(UnenforceableSchemaError):
            grammar = grammar_of(name, FULL, tools={"f": {"type": "object", "properties": {"a": value}}})
            matcher = LLMatcher(FULL.guided, grammar)
            assert not matcher.is_error(), matcher.get_error()


@pytest.mark.parametrize("name", ["kimi-k3"])
@pytest.mark.parametrize("section", ["think", "response"])
def test_the_prompt_may_have_opened_a_section(name, section):
    notation = NOTATIONS[name].answering(f"<|open|>{section}<|sep|>")
    constraint = AnswerConstraint(calls=list(TOOLS.items()), must_call=True)
    grammar = answer_grammar(constraint, added=FULL.added, notation=notation, thought=None)
    call = written(name, [("f", {"n": 3})]).removesuffix("<|close|>message<|sep|>")
    before = {"think": "Hm.<|close|>think<|sep|>", "response": "<|close|>response<|sep|>"}[section]
    assert takes(grammar, FULL, before + call)
