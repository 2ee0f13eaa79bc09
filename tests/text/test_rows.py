"""Every row of JSON and Python calls: what a family writes is read back, however it is cut."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron.text.events import CallArguments, CallStart, Content, ReasoningContent
from neuron.text.notations import json_rows, python_rows
from neuron.text.notations.blocks import BlockNotation
from neuron.text.notations.json_calls import JsonNotation
from neuron.text.notations.notation import hex_id, numbered_id, short_id
from neuron.text.reasoning import ReasoningSplitter
from tests.text.families import MISTRAL_LIST, Calls, rendered, written
from tests.text.splitting import cut, merged

ROWS: dict[str, BlockNotation] = {row.name: row for row in (*json_rows.ROWS, *python_rows.ROWS)}
TOOLS: dict[str, dict[str, Any]] = {"f": {}, "get-weather_2": {}, "w": {}}
MARKERS = sorted({m for row in ROWS.values() for m in (*row.openers, *row.closers, *row.markers)})
NASTY = [
    *MARKERS,
    '"',
    "'",
    "\\",
    "\n",
    "{",
    "}",
    "[",
    "]",
    "```",
    "</think>",
    "Zürich",
    "日本",
    "\U0001f600",
    "\x7f",
    "\\u00e9",
]
TEXTS = st.lists(
    st.sampled_from(NASTY) | st.text(st.characters(exclude_categories=["Cs"]), max_size=4), max_size=5
).map("".join)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(["city", "days", "name", "arguments", "_x"])
CALLS = st.lists(
    st.tuples(st.sampled_from([*TOOLS][:2]), st.dictionaries(KEYS, VALUES, max_size=3)),
    min_size=1,
    max_size=3,
)


def run(row: BlockNotation, pieces):
    parser = row.parser(lambda name, index: "id", TOOLS)
    events = [event for piece in pieces for event in parser.feed(piece)]
    return merged(events + parser.finish()), parser


def heard(row: BlockNotation, pieces) -> tuple[str, Calls]:
    events, _ = run(row, pieces)
    names = [event.name for event in events if isinstance(event, CallStart)]
    arguments = [event.text for event in events if isinstance(event, CallArguments)]
    text = "".join(event.text for event in events if isinstance(event, Content))
    return text, [(name, json.loads(given_)) for name, given_ in zip(names, arguments, strict=True)]


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
@settings(max_examples=40, deadline=None)
@given(calls=CALLS, before=st.sampled_from(["", "So be it.\n"]), data=st.data())
def test_what_a_template_writes_is_read_back(row, calls, before, data):
    text = before + written(row.name, calls)
    assert heard(row, cut(text, data)) == (before.strip(), calls)


@settings(max_examples=40, deadline=None)
@given(calls=CALLS, data=st.data())
def test_mistral_reads_its_older_lists(calls, data):
    text = rendered(MISTRAL_LIST, calls)
    assert heard(ROWS["mistral"], cut(text, data)) == ("", calls)


AROUND = [*"[],;{}\"'\\\n", " ", "text", "1", "```", "```json\n", "</think>", "\\u00"]
OBJECTS = [
    '{"name": "f", "arguments": {', '{"tool_name": "f", "parameters": {', '{"f": {', '"a": 1', '"id": 1',
    '{"arguments": {"a": 1}, "name": "f"}', "{'name': 'f', 'arguments': {'a': '}'}}", '{"b": 2}',
    '{{"name": "f", "arguments": {}}}', '{"function": {"name": "f", "arguments": {}}}',
]  # fmt: skip
PYTHON = ["f(", "f()", "g(", "a=1", "b=", "(", ")", ":", "True", "-2.5", "'x'", '"y', "\\x4", "None"]


def fragments(row: BlockNotation) -> list[str]:
    """Parts of calls of that row, whole and broken, and of everything around them."""
    own = [*row.openers, *row.closers, *(marker[:-1] for marker in row.openers), *AROUND]
    if not isinstance(row, JsonNotation):
        return own + PYTHON
    return [*own, *OBJECTS, *(head.format(name="f", id="call12345", number=3) for head in row.heads)]


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_split_gives_the_same_events(row, data):
    text = "".join(data.draw(st.lists(st.sampled_from(fragments(row)), max_size=14)))
    whole, parser = run(row, [text])
    for pieces in (cut(text, data), list(text)):
        events, other = run(row, pieces)
        assert (events, other.num_malformed) == (whole, parser.num_malformed)


@pytest.mark.parametrize(
    "row",
    [row for row in ROWS.values() if "{id}" not in "".join(getattr(row, "heads", ""))],
    ids=lambda row: row.name,
)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_words_outside_of_calls_are_kept(row, data):
    """Whatever the parser takes for a call, the words come out once each, in order."""
    parts = data.draw(st.lists(st.sampled_from(fragments(row)), max_size=14))
    text = "".join(part if not part.isdigit() else f"w{number}" for number, part in enumerate(parts))
    events, _ = run(row, [text])
    shown = "".join(f" {event.name} " if isinstance(event, CallStart) else event.text for event in events)
    at = 0
    for word in (f"w{number}" for number, part in enumerate(parts) if part.isdigit()):
        at = shown.index(word, at) + 1


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_what_opens_like_a_call_and_is_none_stays_text(row):
    for text in (
        f"{row.openers[0]}no call at all",
        f'{row.openers[0]}{{"answer": 42}} is it',
        row.openers[0],
    ):
        for pieces in ([text], list(text)):
            events, parser = run(row, pieces)
            assert events == [Content(text)]
            assert parser.num_malformed == 1


@pytest.mark.parametrize("row", [row for row in ROWS.values() if row.is_bare], ids=lambda row: row.name)
@pytest.mark.parametrize(
    "text",
    [
        '{"answer": 42}', "[1, 2]", '[{"a": 1},\n {"name": "nobody", "arguments": {}}]', "```\nprint()\n```",
        '{\n  "name": "nobody",\n  "parameters": {"x": {"name": "f", "parameters": {}}}\n}', "[nobody(a=1)]",
        "See:\n[link](f)", "{", "[", "{{f}}",
    ],
)  # fmt: skip
def test_an_answer_that_names_no_tool_is_no_call(row, text):
    for pieces in ([text], list(text)):
        events, parser = run(row, pieces)
        assert events == [Content(text)]
        assert parser.num_malformed == 0


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_arguments_stream_as_they_are_written(row):
    text = written(row.name, [("f", {"s": "a somewhat longer text"})])
    parser = row.parser(row.call_id, TOOLS)
    parser.feed(text[: text.index("longer")])
    assert parser.feed("lo") == [CallArguments(0, "lo")]


def test_ids_have_the_shape_that_templates_take():
    assert hex_id("f", 0).startswith("call_")
    assert hex_id("f", 0) != hex_id("f", 0)
    assert len(short_id("f", 0)) == 9
    assert short_id("f", 0).isalnum()
    assert numbered_id("f", 3) == "functions.f:3"


def test_kimi_counts_its_calls_itself():
    row = ROWS["kimi-k2"]
    parser = row.parser(row.call_id, {})
    text = "<|tool_call_begin|>functions.f:7<|tool_call_argument_begin|>{}"
    assert parser.feed(text)[0] == CallStart(0, "functions.f:7", "f")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("apertus", "<|inner_prefix|>Hm.<|inner_suffix|>Hi."),
        ("apriel", "Here are my reasoning steps:\nHm.\n[BEGIN FINAL RESPONSE]\nHi.\n[END FINAL RESPONSE]\n"),
        ("cohere", "<|START_THINKING|>Hm.<|END_THINKING|><|START_RESPONSE|>Hi.<|END_RESPONSE|>"),
        ("cohere", "<|START_THINKING|>Hm.<|END_THINKING|><|START_TEXT|>Hi.<|END_TEXT|>"),
        ("ernie", "<think>\nHm.\n</think>\n\n<response>\nHi.\n</response>\n"),
        ("granite", "<think>Hm.</think><response>Hi.</response>"),
        ("hunyuan", "<think>\nHm.\n</think>\n<answer>\nHi.\n</answer>"),
        ("longcat", "<longcat_think>Hm.</longcat_think>Hi."),
        ("solar", "<|think|>Hm.<|end|><|begin|>assistant<|content|>Hi.<|end|>"),
    ],
)
def test_no_marker_leaks_into_a_plain_chat(name, text):
    row = ROWS[name]
    for pieces in ([text], list(text)):
        splitter = ReasoningSplitter(row.thoughts[0], answers=row.answers)
        events = [event for piece in pieces for event in splitter.feed(piece)] + splitter.finish()
        assert merged(events) == [ReasoningContent("Hm."), Content("Hi.")]


@pytest.mark.parametrize(
    "row", [row for row in ROWS.values() if row.thoughts and not row.is_bare], ids=lambda row: row.name
)
def test_a_call_in_an_open_thought_is_a_call(row):
    """Whether its opener is a token or begins a line; and the thought's end behind it is no text."""
    thought = row.thoughts[0]
    calls = [("f", {"a": 1})]
    text = f"{thought.open}Hm.\n{written(row.name, calls).strip()}\n{thought.close}"
    for own in (frozenset(), row.visible):
        splitter = ReasoningSplitter(thought, calls=row.call_openers(own.__contains__))
        pieces = [piece for sign in text for piece in splitter.feed(sign)] + splitter.finish()
        assert merged(pieces)[0] == ReasoningContent("Hm.")
        assert heard(row, [piece.text for piece in pieces if isinstance(piece, Content)]) == ("", calls)


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_white_space_before_a_block_may_be_long(row):
    text = "a" + " \n" * 5_000
    events, _ = run(row, [*(text + written(row.name, [("f", {})]))])
    assert [type(event) for event in events] == [Content, CallStart, CallArguments]
