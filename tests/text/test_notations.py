"""The parser of every notation of tool calls, for any cut of its input."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron.text.events import CallArguments, CallStart, Content, ReasoningContent
from neuron.text.notations.known import NOTATIONS
from tests.text.calls import call, read_calls
from tests.text.splitting import cut

TOOLS = {
    "f": {"properties": {
        "a": {"type": "integer"}, "s": {"type": "string"}, "n": {"type": ["string", "null"]},
    }},
    "g": {},
}  # fmt: skip
FRAGMENTS = {
    "qwen-xml": [
        "<tool_call>", "</tool_call>", "<function=f>", "</function>", "<parameter=a>", "<parameter=s>", "\n",
        "</parameter>", "1", "text", " ", "<function=", "<param", "\"", "<parameter=n>", "null", "</para",
        "<",
    ],
    "harmony": [
        "<|channel|>", "<|message|>", "<|end|>", "<|start|>", "<|call|>", "analysis", "final", "commentary",
        "assistant", " to=functions.f", "<|constrain|>", "json", "{}", '{"a": 1}', "text", " ", "<|", "\n",
    ],
}  # fmt: skip


def run(name, pieces):
    return read_calls(name, pieces, TOOLS)


XML = "<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>"
CHANNEL = "<|channel|>commentary to=functions.f <|constrain|>json<|message|>"
CASES = [
    ("qwen-xml", XML, call()),
    ("qwen-xml", f"ok\n\n{XML}\n{XML}\nbye", [Content("ok"), *call(), *call(index=1), Content("bye")]),
    ("qwen-xml", "<function=f>\n<parameter=a>\n1\n</parameter>\n</function>", call()),
    ("qwen-xml", "<tool_call><function=g></function></tool_call>", call("g", "{}")),
    (
        "qwen-xml",
        "<function=f><parameter=s>\n{\"a\": 1}\n\n</parameter><parameter=a>\n7\n</parameter></function>",
        call(arguments='{"s": "{\\"a\\": 1}\\n", "a": 7}'),
    ),
    ("qwen-xml", "<function=f><parameter=n>null</parameter></function>", call(arguments='{"n": null}')),
    ("qwen-xml", "<function=f><parameter=n>12</parameter></function>", call(arguments='{"n": "12"}')),
    ("qwen-xml", "<function=f><parameter=a>many</parameter></function>", call(arguments='{"a": "many"}')),
    ("qwen-xml", "<function=f><parameter=z>True</parameter></function>", call(arguments='{"z": true}')),
    ("qwen-xml", "<function=f><parameter=s>\nhalf", call(arguments='{"s": "half')),
    ("qwen-xml", "<tool_call>not a function</tool_call>", "itself"),
    ("qwen-xml", "<tool_call> <func", "itself"),
    ("qwen-xml", "if a <function= b", "itself"),
    ("harmony", f'{CHANNEL}{{"a": 1}}<|call|>', call()),
    ("harmony", f'{CHANNEL}{{"a": 1}}', call()),
    ("harmony", ' to=functions.f<|channel|>commentary <|constrain|>json<|message|>{"a": 1}', call()),
    (
        "harmony",
        f'<|channel|>analysis<|message|>hm<|end|><|start|>assistant{CHANNEL}{{"a": 1}}<|call|>',
        [ReasoningContent("hm"), *call()],
    ),
    (
        "harmony",
        "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Hi!<|return|>",
        [ReasoningContent("hm"), Content("Hi!")],
    ),
    ("harmony", "<|channel|>commentary<|message|>I will.<|end|>", [Content("I will.")]),
    ("harmony", f"{CHANNEL}", call(arguments="{}")),
    ("harmony", '<|channel|>commentary to=f <|constrain|>json<|message|>{"a": 1}<|call|>', call()),
    ("harmony", " to=f<|channel|>commentary json<|message|>{}", call(arguments="{}")),
    ("harmony", "<|channel|>commentary to=user<|message|>Hi.", [Content("Hi.")]),
    ("harmony", "no channels at all", "itself"),
    ("harmony", "<|channel|>analysis and nothing more", "itself"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "expected"), CASES)
def test_calls_and_text_are_told_apart(name, text, expected):
    expected = [Content(text)] if expected == "itself" else expected
    assert run(name, [text]) == expected
    assert run(name, list(text)) == expected


@pytest.mark.parametrize("name", FRAGMENTS)
@given(data=st.data())
def test_any_split_gives_the_same_events(name, data):
    text = "".join(data.draw(st.lists(st.sampled_from(FRAGMENTS[name]), max_size=14)))
    assert run(name, cut(text, data)) == run(name, [text]) == run(name, list(text))


@pytest.mark.parametrize("name", ["qwen-xml"])
@given(data=st.data())
def test_words_outside_of_calls_are_kept(name, data):
    """Whatever the parser takes for a call, the words come out once each, in order."""
    parts = data.draw(st.lists(st.sampled_from(FRAGMENTS[name]), max_size=14))
    text = "".join(part if not part.isdigit() else f"w{number}" for number, part in enumerate(parts))
    shown = "".join(
        {Content: lambda e: e.text, CallArguments: lambda e: e.text, CallStart: lambda e: f" {e.name} "}[
            type(e)
        ](e)
        for e in run(name, [text])
    )
    words = [f"w{number}" for number, part in enumerate(parts) if part.isdigit()]
    at = 0
    for word in words:
        at = shown.index(word, at)


def written(name, calls):
    """The calls as a model with that notation writes them."""
    if name == "harmony":
        head = "<|channel|>commentary to=functions.{} <|constrain|>json<|message|>{}"
        return "<|call|><|start|>assistant".join(head.format(n, json.dumps(a)) for n, a in calls)
    values = [
        "".join(
            f"<parameter={k}>\n{v if isinstance(v, str) else json.dumps(v)}\n</parameter>\n"
            for k, v in a.items()
        )
        for _, a in calls
    ]
    return "\n".join(
        f"<tool_call>\n<function={n}>\n{value}</function>\n</tool_call>"
        for (n, _), value in zip(calls, values, strict=True)
    )


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<"), max_size=12)
ARGUMENTS = st.fixed_dictionaries({}, optional={"a": st.integers(), "s": TEXTS})
CALLS = st.lists(st.tuples(st.sampled_from(["f", "g"]), ARGUMENTS), max_size=3)


@pytest.mark.parametrize("name", FRAGMENTS)
@given(calls=CALLS, data=st.data())
def test_well_formed_calls_keep_their_arguments(name, calls, data):
    if name == "qwen-xml":
        calls = [("f", arguments) for _, arguments in calls]
    events = run(name, cut(written(name, calls), data))
    assert [event.name for event in events if isinstance(event, CallStart)] == [called for called, _ in calls]
    assert [json.loads(e.text) for e in events if isinstance(e, CallArguments)] == [a for _, a in calls]
    assert not [event for event in events if isinstance(event, Content)]


@pytest.mark.parametrize("name", FRAGMENTS)
def test_arguments_stream_as_they_are_written(name):
    text = written(name, [("f", {"s": "a somewhat longer text"})])
    parser = NOTATIONS[name].parser(lambda name, index: "call_x", TOOLS)
    parser.feed(text[: text.index("longer")])
    assert any("l" in event.text for event in parser.feed("lo") if isinstance(event, CallArguments))
