from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron.text.events import CallArguments, CallStart, Content
from neuron.text.notations.hermes import HermesParser
from tests.text.splitting import cut, merged

FRAGMENTS = st.sampled_from([
    "<tool_call>", "</tool_call>", '{"name": "f", "arguments": {', '{"name":"g","arguments":', '"a": "', "\\",
    '"', "}", "{", "[", "]", ",", "\n", " ", "text", '"id": 1',
    '{"arguments": {"a": 1}, "name": "h"}', "<", "1",
])  # fmt: skip
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.text(min_size=1).filter(lambda name: "<" not in name)
CALLS = st.tuples(NAMES, st.dictionaries(st.text(), JSON_VALUES, max_size=4))


def run(pieces):
    numbers = itertools.count()
    parser = HermesParser(lambda name, index: f"call_{next(numbers)}")
    events = [event for piece in pieces for event in parser.feed(piece)]
    return merged(events + parser.finish())


def call(name="f", arguments='{"a": 1}', index=0):
    return [
        CallStart(index, f"call_{index}", name),
        *([CallArguments(index, arguments)] if arguments else []),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no call <tool> here", [Content("no call <tool> here")]),
        ('<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>', call()),
        ('<tool_call>{"name":"f","arguments":{"a": 1}}</tool_call>', call()),
        ('ok\n<tool_call>{"name":"f","arguments":{"a": 1}}</tool_call>\n', [Content("ok"), *call()]),
        ('<tool_call>{"name":"f","arguments":{"a": 1}}</tool_call>\nok', [*call(), Content("ok")]),
        (
            '<tool_call>{"name":"f","arguments":{"a": 1}}</tool_call>\n<tool_call>{"name":"g"}</tool_call>',
            [*call(), *call("g", "{}", 1)],
        ),
        # other shapes that are calls nevertheless
        ('<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>', call()),
        ('<tool_call>{"name": "f"}</tool_call>', call(arguments="{}")),
        ('<tool_call>{"name": "f", "arguments": null}</tool_call>', call(arguments="{}")),
        ('<tool_call>{"name": "f", "parameters": {"a": 1}}</tool_call>', call()),
        ('<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>', call()),
        ('<tool_call>{"name": "f", "arguments": {"a": 1}, "id": 7}</tool_call>', call()),
        ('<tool_call>{"name": "f", "arguments": {"a": 1}}', call()),
        ('<tool_call>{"name": "f", "arguments": {"a": 1}}\n</tool_', call()),
        ('<tool_call>{"name": "f", "arguments": {"a": 1}} and on', [*call(), Content("and on")]),
        ('<tool_call>{"arguments": {"a": 1}, "name": "f"}', call()),
        # strings may hold anything
        (
            '<tool_call>{"name": "f", "arguments": {"a": "}</tool_call>\\"{"}}</tool_call>',
            call(arguments='{"a": "}</tool_call>\\"{"}'),
        ),
        # no calls: nothing may be lost
        ("a <tool_call>not json</tool_call> b", [Content("a <tool_call>not json</tool_call> b")]),
        ("<tool_call>", [Content("<tool_call>")]),
        ('<tool_call>{"name": "f", "argum', [Content('<tool_call>{"name": "f", "argum')]),
        ('<tool_call>{"name": 1, "arguments": {}}</tool_call>', "itself"),
        ('<tool_call>{"name": "f", "arguments": [1]}</tool_call>', "itself"),
        ('<tool_call>["f"]</tool_call>', "itself"),
        # cut off, or wrong after the arguments began: the client gets all of it
        ('<tool_call>{"name": "f", "arguments": {"a": "b', call(arguments='{"a": "b')),
        (
            '<tool_call>{"name":"f","arguments":{"a": 1} oops}</tool_call>',
            [*call(), Content("oops}</tool_call>")],
        ),
    ],
)
def test_calls_and_text_are_told_apart(text, expected):
    expected = [Content(text)] if expected == "itself" else expected
    assert run([text]) == expected
    assert run(list(text)) == expected


@given(st.lists(FRAGMENTS, max_size=14).map("".join), st.data())
def test_any_split_gives_the_same_events(text, data):
    assert run(cut(text, data)) == run([text]) == run(list(text))


@given(st.lists(CALLS, max_size=3))
def test_well_formed_calls_keep_their_arguments(calls):
    bodies = [json.dumps({"name": name, "arguments": arguments}) for name, arguments in calls]
    events = run(["\n".join(f"<tool_call>\n{body}\n</tool_call>" for body in bodies)])
    assert [event.name for event in events if isinstance(event, CallStart)] == [name for name, _ in calls]
    written = [json.loads(event.text) for event in events if isinstance(event, CallArguments)]
    assert written == [arguments for _, arguments in calls]


@given(st.text(alphabet="<tool_call/> \nab", max_size=60))
def test_text_without_calls_passes_unchanged(text):
    assert run([text]) == ([Content(text)] if text else [])


def test_arguments_stream_as_they_are_written():
    parser = HermesParser(lambda name, index: "call_x")
    parser.feed('<tool_call>{"name": "f", "arguments": ')
    assert parser.feed('{"city": "Os') == [CallStart(0, "call_x", "f"), CallArguments(0, '{"city": "Os')]
    assert parser.feed('lo"') == [CallArguments(0, 'lo"')]
