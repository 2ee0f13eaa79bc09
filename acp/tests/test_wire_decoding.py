from __future__ import annotations

import json

import pytest
from acp_testing.wire_cases import CASES, A, C, O
from hypothesis import given
from hypothesis import strategies as st

from helexa_acp.provider.errors import WireError
from helexa_acp.provider.sse import SseEvent
from helexa_acp.provider.types import (
    Finish,
    FinishReason,
    TextDelta,
    ToolCallArgsDelta,
    ToolCallEnd,
    ToolCallStart,
)
from helexa_acp.provider.wires.registry import ADAPTERS


def decode(wire, events, *, text_tools=False):
    decoder = ADAPTERS[wire]().decoder(text_tools=text_tools)
    return [*(out for event in events for out in decoder.feed(event)), *decoder.close()]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.wire}: {case.name}")
def test_answers_decode_to_their_events(case):
    if isinstance(case.events, str):
        with pytest.raises(WireError, match=case.events):
            decode(case.wire, case.sse(), text_tools=case.text_tools)
    else:
        assert decode(case.wire, case.sse(), text_tools=case.text_tools) == case.events


BODIES = {
    C: {
        "choices": [
            {
                "message": {
                    "content": "hi",
                    "tool_calls": [{"id": "c1", "function": {"name": "read", "arguments": '{"path": "a"}'}}],
                },
                "finish_reason": "tool_calls",
            }
        ]
    },
    O: {
        "status": "completed",
        "output": [
            {"type": "message", "content": [{"type": "output_text", "text": "hi"}]},
            {"type": "function_call", "call_id": "c1", "name": "read", "arguments": '{"path": "a"}'},
        ],
    },
    A: {
        "content": [
            {"type": "text", "text": "hi"},
            {"type": "tool_use", "id": "c1", "name": "read", "input": {"path": "a"}},
        ],
        "stop_reason": "tool_use",
    },
}


@pytest.mark.parametrize("wire", BODIES)
def test_a_body_that_is_not_streamed_decodes_to_the_same_events(wire):
    decoder = ADAPTERS[wire]().decoder()
    assert [*decoder.body(BODIES[wire]), *decoder.close()] == [
        TextDelta("hi"),
        ToolCallStart(0, "c1", "read"),
        ToolCallArgsDelta(0, '{"path": "a"}'),
        ToolCallEnd(0),
        Finish(FinishReason.TOOL_CALLS),
    ]


KEYS = [
    *(
        "type",
        "choices",
        "delta",
        "content",
        "tool_calls",
        "function",
        "name",
        "arguments",
        "index",
        "id",
        "usage",
    ),
    *("item", "output_index", "response", "output", "status", "content_block", "message", "text", "thinking"),
]
KINDS = [
    *(
        "response.output_item.added",
        "response.output_item.done",
        "response.completed",
        "response.output_text.delta",
    ),
    *(
        "response.function_call_arguments.delta",
        "content_block_start",
        "content_block_delta",
        "message_delta",
    ),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=12,
)


@pytest.mark.parametrize("wire", ADAPTERS)
@given(payloads=st.lists(st.tuples(st.sampled_from(["", *KINDS]), JSON), max_size=6))
def test_nonsense_gives_events_or_a_wire_error(wire, payloads):
    events = [
        SseEvent(json.dumps({**p, "type": kind} if kind and isinstance(p, dict) else p), kind)
        for kind, p in payloads
    ]
    try:
        out = decode(wire, events)
    except WireError:
        return
    started = [event.index for event in out if isinstance(event, ToolCallStart)]
    assert started == list(range(len(started)))
    assert [event.index for event in out if isinstance(event, ToolCallEnd)] == started


@given(st.lists(st.integers(1, 9), max_size=30))
def test_leaked_calls_and_thoughts_do_not_depend_on_the_cuts(sizes):
    text = '<think>a < b</think>\nSee <tool_call>\n{"name": "x", "arguments": {"t": "<tool"}}\n</tool_call> end <tool'
    whole = decode(C, [chunk(text), SseEvent("[DONE]")], text_tools=True)
    pieces, at = [], 0
    for size in sizes:
        pieces.append(text[at : at + size])
        at += size
    pieces.append(text[at:])
    cut = decode(C, [*map(chunk, pieces), SseEvent("[DONE]")], text_tools=True)
    assert merged(cut) == merged(whole)


def chunk(text):
    return SseEvent(json.dumps({"choices": [{"delta": {"content": text}}]}))


def merged(events):
    out = []
    for event in events:
        if out and type(event) is type(out[-1]) and hasattr(event, "text"):
            out[-1] = type(event)(out[-1].text + event.text)
        else:
            out.append(event)
    return out
