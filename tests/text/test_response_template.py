"""Checkpoints that describe their answers themselves, in `response_template`."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron.text.directory import read_model_text
from neuron.text.events import CallArguments, CallStart, Content, ReasoningContent
from neuron.text.grammar import GrammarBuilder, UnenforceableSchemaError
from neuron.text.notations.known import NOTATIONS
from neuron.text.response import delimiters
from neuron.text.response.delimiters import MAX_PATTERN_CHARS, UnreadableTemplateError
from neuron.text.response.notation import described_notation
from tests.stubs.model_dir import write_model
from tests.text.splitting import cut, merged

CALL = {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}}
QUOTED = {
    "start_anchor": "<|turn>model\n",
    "fields": {
        "thinking": {"open": "<|channel>thought\n", "close": "<channel|>"},
        "content": {"close": ["<turn|>", "<turn|>\n"]},
        "tool_calls": {
            "open_pattern": r"<\|tool_call>call:(?P<name>\w+)",
            "close": "<tool_call|>",
            "content": "json",
            "content_args": {"unquoted_keys": True, "string_delims": [['<|"|>', '<|"|>']]},
            "repeats": True,
            "transform": CALL,
        },
    },
}
TAGGED = {
    "version": 1,
    "defaults": {"role": "assistant"},
    "start_anchor_pattern": r"<\|start\|>assistant\s",
    "fields": {
        "reasoning_content": {"open": "<think>", "close": "</think>"},
        "content": {"open": "<answer>", "close": "</answer>", "repeats": True, "join": "\n"},
        "citations": {"open": "<cite>", "close": "</cite>"},
        "tool_calls": {
            "open_pattern": r"<call (?P<name>[^>]+)>",
            "close_pattern": r"</call\s*>",
            "content": "xml-inline",
            "content_args": {"tag_pattern": r"<(?P<key>\w+)>(?P<value>.*?)</(?P=key)>"},
            "transform": CALL,
        },
    },
}
LISTED = {
    "start_anchor": "A:",
    "fields": {
        "content": {},
        "tool_calls": {
            "open": "[[",
            "close": "]]",
            "content": "json",
            "transform_each": True,
            "transform": {"name": "{tool}", "arguments": "{given.args}"},
        },
    },
}
TOOLS = {"f": {"properties": {"s": {"type": "string"}, "n": {"type": "integer"}}}}


def notation(spec, written=None):
    return described_notation(spec, tokens=("<|x|>",), written=written)


def read(spec, pieces, prompt=""):
    parser = notation(spec).answering(prompt).parser(lambda name, index: f"{name}:{index}", TOOLS)
    return merged([event for piece in pieces for event in parser.feed(piece)] + parser.finish())


def call(arguments, index=0):
    return [CallStart(index, f"f:{index}", "f"), CallArguments(index, arguments)]


@pytest.mark.parametrize(
    ("spec", "prompt", "text", "events"),
    [
        (
            QUOTED,
            "U<|turn>model\n",
            '<|channel>thought\nH.\n<channel|> Hi.<|tool_call>call:f{s:<|"|>a"b<|"|>,n:3}<tool_call|><turn|>',
            [ReasoningContent("H."), Content("Hi."), *call('{"s": "a\\"b", "n": 3}')],
        ),
        (
            QUOTED,
            "<|turn>model\n<|channel>thought\n",
            "Hm.<channel|>Hi.",
            [ReasoningContent("Hm."), Content("Hi.")],
        ),
        (QUOTED, "<|channel>thought\n<|turn>model\n", "Hi.<turn|>", [Content("Hi.")]),
        (
            TAGGED,
            "<|start|>assistant\n<think>",
            "Hm.</think> lost <answer> a </answer><cite>x</cite><answer>b</answer>",
            [ReasoningContent("Hm."), Content("a\nb")],
        ),
        (TAGGED, "", "<call f><n>3</n><s>12</s></call >", call('{"n": 3, "s": "12"}')),
        (TAGGED, "", "<call f><n>3</n>", call('{"n": 3}')),
        (
            LISTED,
            "",
            'Hi [[[{"tool": "f", "given": {"args": {"n": "7"}}}, {"tool": "f", "given": {"args": {}}}] ]]',
            [Content("Hi"), *call('{"n": 7}'), *call("{}", 1)],
        ),
    ],
)  # fmt: skip
def test_an_answer_is_cut_as_the_template_says(spec, prompt, text, events):
    assert read(spec, [text], prompt) == events
    assert read(spec, list(text), prompt) == events


@pytest.mark.parametrize("text", ["[[not json]]", "[[[1, 2]]]", '[[[{"tool": 1}]]]', "[[NaN]]", '[["f"]]'])
def test_what_is_no_call_stays_text(text):
    parser = notation(LISTED).parser(lambda name, index: "id", TOOLS)
    assert merged(parser.feed(f"a {text}") + parser.finish()) == [Content(f"a {text}")]
    assert parser.num_malformed == 1


FRAGMENTS = [
    "<think>", "</think>", "<answer>", "</answer>", "<call f>", "</call", " >", ">", "<n>1</n>", "text", " ",
    "<turn|>", "\n", "<|channel>thought\n", "<channel|>", "<|tool_call>call:f", "{n:1}", "<tool_call|>",
    "[[", "]]", '"', "[",
]  # fmt: skip


@pytest.mark.parametrize("spec", [QUOTED, TAGGED, LISTED], ids=["quoted", "tagged", "listed"])
@given(data=st.data())
def test_any_split_gives_the_same_events(spec, data):
    parts = data.draw(st.lists(st.sampled_from(FRAGMENTS), max_size=12))
    text = "".join(parts)
    assert read(spec, cut(text, data)) == read(spec, [text]) == read(spec, list(text))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"fields": {}}, "from one to"),
        ({"version": 2}, "version 2"),
        ({"start_anchor": None}, "start_anchor"),
        ({"new": 1}, "new is not known"),
        ({"fields": {"content": {}, "thinking": {}}}, "only one field"),
        ({"fields": {"content": {"open": ""}}}, "none of them empty"),
        ({"fields": {"content": {"open": "a", "open_pattern": "b"}}}, "both"),
        ({"fields": {"content": {"open_pattern": "("}}}, "no pattern"),
        ({"fields": {"content": {"open_pattern": "x" * (MAX_PATTERN_CHARS + 1)}}}, "characters"),
        ({"fields": {"content": {"open_pattern": "(?P<name>x)"}}}, "need a transform"),
        ({"fields": {"content": {"content": "yaml"}}}, "no parser 'yaml'"),
        (
            {"fields": {"content": {"content": "xml-inline", "content_args": {"tag_pattern": "x"}}}},
            "named key",
        ),
        ({"fields": {"content": {"content": "json", "content_args": {"string_delims": ["x"]}}}}, "pairs"),
        ({"fields": {"content": {"transform": "a {content}"}}}, "mixes"),
        ({"fields": {"content": {"join": ""}}}, "needs repeats"),
        ({"fields": {"content": []}}, "must be an object"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_with_the_reason(change, reason):
    with pytest.raises(UnreadableTemplateError, match=reason):
        notation(LISTED | change)


def test_patterns_that_use_up_their_time_stop_and_the_rest_is_text(monkeypatch):
    monkeypatch.setattr(delimiters, "BURST_SECONDS", 0.0)
    fields = {"content": {}, "thinking": {"open_pattern": "<t>", "close": "x"}}
    assert read({"start_anchor": "A", "fields": fields}, ["a<t>", "b"]) == [Content("a<t>b")]
    assert read({"start_anchor_pattern": "A", "fields": {"content": {}}}, ["Hi"], "A") == [Content("Hi")]


def test_calls_are_forced_in_the_notation_that_the_template_writes():
    grammar = GrammarBuilder({})
    forced = notation(LISTED, written=NOTATIONS["glm"]).call(grammar, "f", TOOLS["f"])
    assert "<tool_call>f" in json.loads(f'"{forced[1:].partition(chr(34))[0]}"')
    with pytest.raises(UnenforceableSchemaError, match="for reading only"):
        notation(LISTED).call(grammar, "f", TOOLS["f"])


def described_model(directory, spec):
    write_model(directory)
    path = directory / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"response_template": spec}))
    return read_model_text(directory)


def test_a_directory_with_a_response_template_is_read_by_it(tmp_path):
    text = described_model(tmp_path / "m", LISTED)
    answer = text.answer("A:", tools=TOOLS)
    said = text.encode('Hi [[[{"tool": "f", "given": {"args": {"n": 1}}}] ]]')
    events = merged([event for token in said for event in answer.feed(token)] + answer.finish())
    assert [event.text for event in events if isinstance(event, Content | CallArguments)] == [
        "Hi",
        '{"n": 1}',
    ]


def test_a_response_template_that_cannot_be_used_is_left_aside(tmp_path, caplog):
    assert described_model(tmp_path / "m", {"fields": {}}).notation == NOTATIONS["hermes"]
    assert "from one to 16 fields" in caplog.text
