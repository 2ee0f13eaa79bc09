from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron.text.events import Content
from tests.text.calls import call, read_calls

TOOLS = {"f": {}, "g": {}}


def run(name, pieces):
    return read_calls(name, pieces, TOOLS)


TWO = [*call(), *call("g", "{}", 1)]


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
    assert run("hermes", [text]) == expected
    assert run("hermes", list(text)) == expected


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("hermes", '<tool_call>[{"name": "f", "arguments": {"a": 1}}, {"name": "g"}]</tool_call>', TWO),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"a": 1}}\n{"name": "g"}</tool_call>', TWO),
        ("hermes", "<tool_call>{'name': 'f', 'arguments': {'a': 1}}</tool_call>", call()),
        ("hermes", '<tool_call>{{"name": "f", "arguments": {"a": 1}}}</tool_call>', call()),
        ("hermes", '<tool_call>{"name": "f", "arguments": {\'a\': 1}}</tool_call>', call()),
        ("hermes", '<tool_call>```json\n{"name": "f", "arguments": {"a": 1}}\n```</tool_call>', call()),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call></think>', call()),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"a": 1}</tool_call>', call()),
        ("mistral", '[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}} ]', call()),
        ("mistral", '[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}\n]', call()),
        (
            "mistral",
            'ok[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}, "id": "x"}]',
            [Content("ok"), *call()],
        ),
        (
            "mistral",
            '[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}, {"arguments": {}, "name": "g"}]',
            TWO,
        ),
        ("mistral", '[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g[CALL_ID]x1[ARGS]{}', TWO),
        ("mistral", '[TOOL_CALLS]f{"a": 1}', call()),
        ("mistral", '[TOOL_CALLS]f[ARGS]{"a": "b', call(arguments='{"a": "b')),
        ("mistral", "[TOOL_CALLS]not a call", "itself"),
        ("mistral", "[TOOL_CALLS][1, 2]", "itself"),
        ("mistral", '[TOOL_CALLS][{"name": 1}]', "itself"),
        ("mistral", "[TOOL_CALLS]", "itself"),
        ("mistral", "a [TOOL_CALL b", "itself"),
        ("llama3", '{"name": "f", "parameters": {"a": 1}}', call()),
        ("llama3", '<|python_tag|>{"name": "f", "arguments": {"a": 1}}', call()),
        ("llama3", '{"name": "f", "parameters": {"a": 1}}; {"parameters": {}, "name": "g"}\n', TWO),
        ("llama3", '[{"name": "f", "parameters": {"a": 1}}, {"name": "g"}]', TWO),
        ("llama3", '{"function": "f", "parameters": {"a": 1}}', call()),
        ("llama3", '{"type": "function", "function": {"name": "f", "parameters": {"a": 1}}}', call()),
        ("llama3", '{"type": "function", "name": "f", "parameters": {"a": 1}}', call()),
        ("llama3", '```json\n{"name": "f", "parameters": {"a": 1}}\n```', call()),
        ("llama3", '<function=f>{"a": 1}</function>', call()),
        ("llama3", 'Well:\n\n{"name": "f", "parameters": {"a": 1}}', [Content("Well:"), *call()]),
        ("llama3", '{"name": "f", "parameters": {"a": 1}} and so on', [*call(), Content("and so on")]),
        ("llama3", '{"name": "f", "parameters": {"a": 1}}, so', [*call(), Content(", so")]),
        ("llama3", '{"name": "nobody", "parameters": {"a": 1}}', "itself"),
        ("llama3", ' {"answer": 42} ', "itself"),
        ("llama3", '<|python_tag|>print("x")', "itself"),
        ("llama3", 'It is {"name": "f", "parameters": {}}', "itself"),
        ("llama3", '{"name": "f", "parameters": {"a": "x', call(arguments='{"a": "x')),
        ("functools", '{"name": "f", "arguments": {\'a\': 1}},{"name": "g", "arguments": {}}', TWO),
        ("kimi-k2", '<|tool_call_begin|>f<|tool_call_argument_begin|>{"a": 1}', call()),
        ("deepseek-v3", '<｜tool▁call▁begin｜>f<｜tool▁sep｜>{"a": 1}<｜tool▁call▁end｜>', call()),
        ("command-r", 'Action: ```json\n[{"tool_name": "f", "parameters": {"a": 1}}]\n```', call()),
    ],
)
def test_each_row_knows_its_spellings(name, text, expected):
    expected = [Content(text)] if expected == "itself" else expected
    assert run(name, [text]) == expected
    assert run(name, list(text)) == expected


HALF = "\\ud83d"  # of a character, which JSON can spell and UTF-8 cannot hold


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hermes", f'<tool_call>{{"arguments": {{"a": "{HALF}"}}, "name": "f{HALF}"}}</tool_call>'),
        ("hermes", f'<tool_call>{{"name": "f{HALF}", "arguments": {{"a": "{HALF}"}}}}</tool_call>'),
        ("apertus", f'<|tools_prefix|>[{{"f{HALF}": {{"a": "{HALF}"}}}}]'),
        ("lfm2", f"<|tool_call_start|>[f(a='{HALF}', b={{'{HALF}': 1}})]"),
    ],
)
def test_half_a_character_can_be_sent(name, text):
    called, arguments = run(name, [text])
    assert called.name.encode()
    assert arguments.text.encode()
    assert HALF in arguments.text
    json.loads(arguments.text)


def test_deep_nesting_is_text_or_arguments_as_it_stands():
    deep = '{"name": "f", "arguments": {"a": ' + "[" * 100_000
    assert run("hermes", ["<tool_call>" + deep]) == call(arguments=deep[deep.index('{"a"') :])
    python = "<tool_call>{'name': " + "[" * 100_000 + "]" * 100_000 + "}"
    assert run("hermes", [python]) == [Content(python)]


@given(st.text(alphabet="<tool_call/> \nab", max_size=60))
def test_text_without_calls_passes_unchanged(text):
    assert run("hermes", [text]) == ([Content(text)] if text else [])
