"""Families that write calls in tags or in a way of their own: what their templates write reads back."""

from __future__ import annotations

import json
import re
from collections import defaultdict

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from neuron.text.events import CallArguments, CallStart, Content, ReasoningContent
from neuron.text.notations.known import NOTATIONS, notations_for
from neuron.text.reasoning import ReasoningSplitter
from tests.text.call_templates import TEMPLATES, notation_of, written
from tests.text.splitting import cut, merged

F = {
    "type": "object",
    "properties": {
        "s": {"type": "string"},
        "n": {"type": "integer"},
        "b": {"type": "boolean"},
        "r": {"$ref": "#/$defs/word"},
        "o": {
            "type": "object",
            "properties": {"a": {"type": "array", "items": {"type": "string"}}, "n": {"type": "integer"}},
        },
    },
    "$defs": {"word": {"anyOf": [{"$ref": "#/$defs/word"}, {"type": "string"}]}},
}
TOOLS = {"f": F, "g": {"type": "object", "properties": {}}}
SAMPLE = [("f", {"s": "x", "n": 1, "o": {"a": ["y"], "n": 2}}), ("g", {})]
# What ends a value whatever stands around it: no text with one of these can be expressed.
ENDS = {
    "gemma4": ['<|"|>'],
    "functiongemma": ["<escape>"],
    "minimax-m3": ["]<]minimax[>["],
    "muse": ["<|eom|>", "<|eot|>", "</atem:parameter>", "<atem:"],
    "kimi-k3": ["<|close|>", "<|open|>"],
    "functionary": [],
}
ALL_ENDS = [
    "</parameter>",
    "<parameter",
    "</arg_value",
    "<arg_key",
    "</ifm|",
    "<ifm|",
    "DSML",
    "steptml:",
    "</param>",
]
ALL_ENDS += ["]]>", "<param", "<tool_call", "<function", "<invoke", "<minimax", "<dots", "<seed:", "<｜tool"]


def read(name, pieces, *, tools=TOOLS, prompt=""):
    parser = NOTATIONS[name].answering(prompt).parser(lambda name, index: f"{name}:{index}", tools)
    events = [event for piece in pieces for event in parser.feed(piece)]
    return merged(events + parser.finish())


def calls_of(events):
    names = [event.name for event in events if isinstance(event, CallStart)]
    return [(called, json.loads(arguments_of(events)[index])) for index, called in enumerate(names)]


def arguments_of(events):
    found = defaultdict(str)
    for event in events:
        if isinstance(event, CallArguments):
            found[event.index] += event.text
    return found


def text_of(events):
    return "".join(event.text for event in events if isinstance(event, Content))


PIECES = [
    "<",
    ">",
    "/",
    "{",
    "}",
    "[",
    "]",
    '"',
    "'",
    "\\",
    "\n",
    " ",
    "ü",
    "🎉",
    "a",
    "&",
    ":",
    ",",
    "1",
    "null",
]
MARKUP = [
    "</function>",
    "</tool_call>",
    "</invoke>",
    "<think>",
    "<|tool_call>",
    ">>>f\n",
    "<tool_call|>",
    "</s",
]
TEXTS = st.lists(st.sampled_from([*PIECES, *MARKUP]), max_size=10).map("".join)
ARGUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "s": TEXTS,
        "n": st.integers(),
        "b": st.booleans(),
        "r": TEXTS,
        "o": st.fixed_dictionaries({}, optional={"a": st.lists(TEXTS, max_size=2), "n": st.integers()}),
    },
)
CALLS = st.lists(st.tuples(st.just("f"), ARGUMENTS) | st.just(("g", {})), min_size=1, max_size=3)


def can_be_expressed(name, calls):
    ends = ENDS.get(name, ALL_ENDS)
    texts = json.dumps(calls, ensure_ascii=False).replace('\\"', '"')
    return not any(end in texts for end in ends)


@pytest.mark.parametrize("template", TEMPLATES)
@given(calls=CALLS, data=st.data())
def test_what_a_template_writes_reads_back(template, calls, data):
    name = notation_of(template)
    assume(can_be_expressed(name, calls))
    events = read(name, cut(written(template, calls), data))
    assert calls_of(events) == calls
    assert not text_of(events).strip()


def fragments(template):
    text = written(template, SAMPLE)
    parts = re.findall(r"<[^<>]*>|[^<]+|<", text)
    return [*dict.fromkeys(parts), "text", " ", "\n", "1", "<", "{", "}", ",", "nul", '"', ">>>", "</"]


@pytest.mark.parametrize("template", TEMPLATES)
@given(data=st.data())
def test_any_split_gives_the_same_events(template, data):
    name = notation_of(template)
    parts = data.draw(st.lists(st.sampled_from(fragments(template)), max_size=16))
    text = "".join(parts)
    assert read(name, cut(text, data)) == read(name, [text]) == read(name, list(text))


@pytest.mark.parametrize("template", TEMPLATES)
@given(data=st.data())
def test_complete_calls_are_json(template, data):
    """Whatever the order of tags, a call that was closed has arguments that are JSON."""
    name = notation_of(template)
    text = "".join(data.draw(st.lists(st.sampled_from(fragments(template)), max_size=16)))
    parser = NOTATIONS[name].parser(lambda name, index: "id", TOOLS)
    events = merged(parser.feed(text) + parser.finish())
    for index in range(parser.num_closed):
        assert isinstance(json.loads(arguments_of(events)[index]), dict)


@pytest.mark.parametrize("name", dict.fromkeys(map(notation_of, TEMPLATES)))
@pytest.mark.parametrize("text", ["no call", "a < b and c > d", "{}", "[1, 2]", "x <tool", "line\n\nline"])
def test_text_without_calls_passes_unchanged(name, text):
    assert read(name, list(text)) == [Content(text)]


@pytest.mark.parametrize("template", TEMPLATES)
def test_text_arguments_stream_as_they_are_written(template):
    text = written(template, [("f", {"s": "a somewhat longer text"})])
    parser = NOTATIONS[notation_of(template)].parser(lambda name, index: "id", TOOLS)
    parser.feed(text[: text.index("longer")])
    assert any("l" in event.text for event in parser.feed("lo") if isinstance(event, CallArguments))


MALFORMED = [
    ("qwen-xml", "<tool_call>not a function</tool_call>"),
    ("seed", "<seed:tool_call>no</seed:tool_call>"),
    ("glm", '<tool_call>{"name": "f"}</tool_call>'),
    ("hy3", "<tool_calls:opensource>\nno</tool_calls:opensource>"),
    ("k2-horizon", "<ifm|tool_calls>\n{}</ifm|tool_calls>"),
    ("minimax-m2", "<minimax:tool_call>\n<invoke>"),
    ("deepseek-v3.2", "<｜DSML｜function_calls>\nnothing"),
    ("step3", "<｜tool_calls_begin｜><｜tool_call_begin｜>function"),
    ("dots", "<dots_function_call>garbage</dots_function_call>"),
    ("minicpm5", '<function name="f'),
    ("minimax-m3", "]<]minimax[>[<tool_call>\nno"),
    ("gemma4", "<|tool_call>no call<tool_call|>"),
    ("functiongemma", "<start_function_call>call"),
    ("functionary", "f\nprint(1)"),
]


@pytest.mark.parametrize(("name", "text"), MALFORMED)
def test_malformed_calls_stay_text_and_are_counted(name, text):
    parser = NOTATIONS[name].parser(lambda name, index: "id", TOOLS)
    events = merged([event for sign in text for event in parser.feed(sign)] + parser.finish())
    assert not calls_of(events)
    assert text_of(events) == text
    assert parser.num_malformed == 1


FUNCTION = "<tool_call>\n<function=f>\n"
FORGOTTEN = [
    ("qwen-xml", f"{FUNCTION}<parameter=n>\n1\n</parameter>\n</tool_call>", {"n": 1}, ""),
    ("qwen-xml", f"{FUNCTION}<parameter=n>\n1\n</function>\n</tool_call>", {"n": 1}, ""),
    ("qwen-xml", f"{FUNCTION}<parameter=s>\nx\n</tool_call>\ndone", {"s": "x"}, "done"),
    (
        "qwen-xml",
        f"{FUNCTION}<parameter=s>\n</function>\n</parameter>\n</function>",
        {"s": "</function>"},
        "",
    ),
    ("qwen-xml", "<function=f><parameter=n>\n1\n</parameter></func", {"n": 1}, ""),
    ("qwen-xml", f"{FUNCTION}<parameter=n>\n1\n</parameter>\n", {"n": 1}, ""),
    ("qwen-xml", FUNCTION, {}, ""),
    ("glm", "<tool_call>f\n<arg_key>n</arg_key>\n<arg_value>1</tool_call>", {"n": 1}, ""),
    ("minimax-m2", '<minimax:tool_call><invoke name="f"></minimax:tool_call>!', {}, "!"),
    ("gemma4", "<|tool_call>call:f{n:1<tool_call|>", {"n": 1}, ""),
    ("gemma4", "<|tool_call>:f{s:,n:[1,,2}}", {"s": None, "n": [1, 2]}, ""),
    (
        "minimax-m3",
        ']<]minimax[>[<tool_call>]<]minimax[>[<invoke name="f">]<]minimax[>[<n>1]<]minimax[>[</invoke>',
        {"n": 1},
        "",
    ),
]


@pytest.mark.parametrize(("name", "text", "arguments", "rest"), FORGOTTEN)
def test_forgotten_ends_still_end_the_call(name, text, arguments, rest):
    events = read(name, list(text))
    assert calls_of(events) == [("f", arguments)]
    assert text_of(events) == rest


@pytest.mark.parametrize("template", [name for name in TEMPLATES if name != "functionary"])
def test_a_call_cut_anywhere_leaks_no_tag(template):
    text = written(template, [("f", {"n": 1, "s": "x"})])
    whole = read(notation_of(template), [text])
    for size in range(len(text)):
        events = read(notation_of(template), [text[:size]])
        if starts := [event for event in events if isinstance(event, CallStart)]:
            assert len(starts) == 1
            assert text_of(events).strip() == ""
    assert calls_of(whole) == [("f", {"n": 1, "s": "x"})]


def test_two_calls_may_lack_the_end_between_them():
    call = "<tool_call>\n<function=f>\n<parameter=n>\n1\n"
    events = read("qwen-xml", list(f"{call}</function>\n{call}</parameter>\n</function>\n</tool_call>"))
    assert calls_of(events) == [("f", {"n": 1})] * 2


@pytest.mark.parametrize(
    ("name", "prompt", "text", "thought", "content"),
    [
        ("gemma4", "", "<|channel>thought\nHm.\n<channel|>Hi.", "Hm.", "Hi."),
        ("gemma4", "", "<|channel>thou<channel|>Hi.<|channel>s<channel|> So.<channel|>", "thous", "Hi.So."),
        ("gemma4", "", "<|channel>thought\n<channel|>Hi.", "", "Hi."),
        (
            "kimi-k3",
            "<|open|>think<|sep|>",
            "Hm.<|close|>think<|sep|><|open|>response<|sep|>Hi.<|close|>response<|sep|><|close|>message<|sep|>",
            "Hm.",
            "Hi.",
        ),
        ("kimi-k3", "<|open|>response<|sep|>", "Hi.<|close|>response<|sep|>", "", "Hi."),
        ("kimi-k3", "", "Hi.", "", "Hi."),
        (
            "muse",
            "",
            " to=self<|message|>Hm.<|eom|><|start|>assistant to=user<|message|>Hi.<|eot|>",
            "Hm.",
            "Hi.",
        ),
        ("functionary", ">>>", "all\nHi.", "", "Hi."),
    ],
)  # fmt: skip
def test_thought_and_answer_are_told_apart(name, prompt, text, thought, content):
    events = read(name, list(text), tools={}, prompt=prompt)
    assert events == read(name, [text], tools={}, prompt=prompt)
    assert "".join(event.text for event in events if isinstance(event, ReasoningContent)) == thought
    assert text_of(events) == content


@pytest.mark.parametrize(
    ("name", "prompt", "thought"),
    [("gemma4", "", "<|channel>thought\nHm."), ("kimi-k3", "<|open|>think<|sep|>", "Hm.")],
)
def test_a_call_ends_an_open_thought(name, prompt, thought):
    events = read(name, list(thought + written(name, [("f", {"n": 1})])), prompt=prompt)
    assert events[0] == ReasoningContent("Hm.")
    assert calls_of(events) == [("f", {"n": 1})]


def test_the_tokenizer_tells_the_suffix_of_tags():
    notation = notations_for(["<s>", "<tool_calls:v2>"])["hy3"]
    assert "</arg_value:v2>" in notation.markers
    parser = notation.parser(lambda name, index: f"{name}:{index}", TOOLS)
    text = written("hy3", SAMPLE).replace(":opensource", ":v2")
    assert calls_of(merged(parser.feed(text) + parser.finish())) == SAMPLE
    assert notations_for(["<s>"]) == NOTATIONS


@pytest.mark.parametrize(
    ("name", "prompt", "text", "thought", "content"),
    [
        ("hy3", "", "<think:opensource>Hm.</think:opensource>Hi.", "Hm.", "Hi."),
        ("hy3", "<think:opensource></think:opensource>", "Hi.", "", "Hi."),
        ("minimax-m3", "", "<mm:think>Hm.</mm:think>Hi.", "Hm.", "Hi."),
        ("minimax-m3", "", "</mm:think>Hi.", "", "Hi."),
        ("seed", "", "<seed:think>Hm.</seed:think>Hi.", "Hm.", "Hi."),
        ("k2-horizon", "<ifm|think>", "Hm.</ifm|think>Hi.", "Hm.", "Hi."),
        ("functionary", ">>>", "all\nHi.", "", "Hi."),
    ],
)
def test_no_marker_leaks_into_a_chat_without_tools(name, prompt, text, thought, content):
    notation = NOTATIONS[name]
    markers = notation.thoughts[0] if notation.thoughts else None
    opened = markers is not None and markers.opened_by(prompt)
    splitter = ReasoningSplitter(markers, opened=opened, answers=notation.answers)
    pieces = [piece for sign in text for piece in splitter.feed(sign)] + splitter.finish()
    assert "".join(piece.text for piece in pieces if isinstance(piece, ReasoningContent)) == thought
    assert text_of(pieces) == content


def test_a_word_behind_a_marker_is_no_call():
    text = "<tool_call>tag is what GLM writes"
    assert read("glm", list(text)) == [Content(text)]


@pytest.mark.parametrize("template", ["qwen-xml", "gemma4", "functiongemma"])
def test_values_are_typed_by_what_the_schema_refers_to(template):
    inner = {"type": "object", "properties": {"zip": {"type": "string"}}}
    tools = {"f": {"$ref": "#/$defs/f", "$defs": {"f": inner}}}
    text = written(template, [("f", {"zip": "815"})])
    assert calls_of(read(template, [text], tools=tools)) == [("f", {"zip": "815"})]
