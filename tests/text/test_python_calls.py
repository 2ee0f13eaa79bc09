from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron.text.events import CallArguments, CallStart, Content
from neuron.text.notations.known import NOTATIONS
from neuron.text.notations.python_literal import literal_as_json
from tests.text.splitting import merged

TOOLS = {"f": {}, "g": {}}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def run(name, pieces):
    parser = NOTATIONS[name].parser(lambda name, index: "id", TOOLS)
    events = [event for piece in pieces for event in parser.feed(piece)]
    return merged(events + parser.finish())


def call(arguments="{}", name="f", index=0):
    return [CallStart(index, "id", name), CallArguments(index, arguments)]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("pythonic", "[f()]", call()),
        ("pythonic", '[f(a=1, b="x"), g()]', [*call('{"a": 1, "b": "x"}'), *call(name="g", index=1)]),
        ("pythonic", "<|python_start|>[f(a=True)]<|python_end|>", call('{"a": true}')),
        ("pythonic", "Well.\n[f(a=None)]\nDone.", [Content("Well."), *call('{"a": null}'), Content("Done.")]),
        ("pythonic", "```python\n[f(a=1)]\n```", call('{"a": 1}')),
        ("pythonic", "[f(a=[1, 2,], b={'k': (1, 'x')})]", call('{"a": [1, 2], "b": {"k": [1, "x"]}}')),
        (
            "pythonic",
            r"""[f(a='it\'s "so"\n', b="\x41\u00e9\q")]""",
            call(r"""{"a": "it's \"so\"\n", "b": "\u0041\u00e9\\q"}"""),
        ),
        ("pythonic", "[f(a=1_000, b=.5, c=1e400)]", call('{"a": 1000, "b": 0.5, "c": 1e400}')),
        ("pythonic", "[f(a=Oslo)]", call('{"a": "Oslo"}')),
        ("pythonic", "[f(a=1", call('{"a": 1')),
        ("pythonic", "[f(a='x", call('{"a": "x')),
        ("pythonic", "[f(1)]", "itself"),
        ("pythonic", "[nobody(a=1)]", "itself"),
        ("pythonic", "[f(x) for x in y]", "itself"),
        ("pythonic", "It is [f(a=1)]", "itself"),
        ("pythonic", "[1, 2]", "itself"),
        (
            "olmo",
            "<function_calls>\nf(a=true)\ng()\n</function_calls>",
            [*call('{"a": true}'), *call(name="g", index=1)],
        ),
        ("olmo", "<function_calls>nothing</function_calls>", "itself"),
        (
            "lfm2",
            '<|tool_call_start|>[f(a={"k": [true, null]})]<|tool_call_end|>So.',
            [*call('{"a": {"k": [true, null]}}'), Content("So.")],
        ),
    ],
)  # fmt: skip
def test_calls_and_text_are_told_apart(name, text, expected):
    expected = [Content(text)] if expected == "itself" else expected
    assert run(name, [text]) == expected
    assert run(name, list(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[f(days='3', city='3', any='3')]", '{"days": 3, "city": "3", "any": "3"}'),
        ("[f(opts=\"{'x': [True]}\")]", '{"opts": {"x":[true]}}'),
        ("[f(days='many')]", '{"days": "many"}'),
        ("[f(days='3", '{"days": "3'),
    ],
)
def test_text_is_read_again_where_the_schema_allows_none(text, expected):
    kinds = {"days": "integer", "city": "string", "opts": "object"}
    tools = {"f": {"properties": {key: {"type": kind} for key, kind in kinds.items()}}}
    for pieces in ([text], list(text)):
        parser = NOTATIONS["pythonic"].parser(lambda name, index: "id", tools)
        events = [event for piece in pieces for event in parser.feed(piece)] + parser.finish()
        assert merged(events) == call(expected)


@given(VALUES)
def test_python_writes_what_json_reads(value):
    found = literal_as_json(repr(value))
    assert found is not None
    assert json.loads(found) == json.loads(json.dumps(value))


@pytest.mark.parametrize("text", ["{", "{1, 2}", "f(1)", "{'a': }", "", "a b", "'x", "{1: 2}"])
def test_what_is_no_literal_has_no_json(text):
    assert literal_as_json(text) is None


@given(st.text("'\"\\ux4U0n{}[](),: ", max_size=30))
def test_a_literal_is_json_or_nothing(text):
    found = literal_as_json(text)
    assert found is None or not math.isnan(len(str(json.loads(found))))


def test_deep_nesting_takes_no_stack():
    depth = 200_000
    assert literal_as_json("[" * depth + "]" * depth) is None
    (start, arguments) = run("pythonic", ["[f(a=" + "[" * depth])
    assert start == CallStart(0, "id", "f")
    assert arguments.text == '{"a": ' + "[" * depth
