"""One row for each way in which a chat upstream is known to differ from the letter of the protocol."""

from __future__ import annotations

import pytest

from fleet.translation.events import (
    MessageStart,
    ReasoningDelta,
    ReasoningSignature,
    RedactedReasoning,
    Stop,
    TextDelta,
    Usage,
)
from tests.translation.tape import call, called, read, say, sse, use

START = MessageStart("chatcmpl-7")
STOP = Stop("stop")
CALLS = Stop("tool_calls")
F = called("a", "f", '{"x":1}')
TEXT = {
    "plain": ([say(role="assistant", content=""), say(content="a"), say("stop")], [TextDelta("a"), STOP]),
    "null content": ([say(content=None), say("stop", content="a")], [TextDelta("a"), STOP]),
    "content as parts": (
        [say("stop", content=[{"type": "text", "text": "a"}, {"text": "b"}])],
        [TextDelta("a"), TextDelta("b"), STOP],
    ),
    "delta null": ([say(choice={"delta": None}), say("stop", content="a")], [TextDelta("a"), STOP]),
    "empty tool_calls": (
        [say(content="a", tool_calls=[]), say("stop", tool_calls=[])],
        [TextDelta("a"), STOP],
    ),
    "tool_calls null": ([say("stop", content="a", tool_calls=None)], [TextDelta("a"), STOP]),
    "refusal": ([say(refusal="no"), say("stop")], [TextDelta("no"), Stop("content_filter")]),
    "second choice": (
        [say("stop", content="a"), say("stop", content="b", choice={"index": 1})],
        [TextDelta("a"), STOP],
    ),
    "unknown fields": (
        [say("stop", content="a", audio={}, annotations=[1]) | {"x": 1}],
        [TextDelta("a"), STOP],
    ),
}

REASONING = {
    "reasoning_content": (
        [say(reasoning_content="r"), say("stop", content="a")],
        [ReasoningDelta("r"), TextDelta("a"), STOP],
    ),
    "reasoning": (
        [say(reasoning="r"), say("stop", content="a")],
        [ReasoningDelta("r"), TextDelta("a"), STOP],
    ),
    "both, once": ([say("stop", reasoning="r", reasoning_content="r")], [ReasoningDelta("r"), STOP]),
    "null beside text": (
        [say("stop", reasoning_content=None, reasoning="", content="a")],
        [TextDelta("a"), STOP],
    ),
    "details": (
        [say("stop", reasoning_details=[{"type": "reasoning.text", "text": "r"}])],
        [ReasoningDelta("r"), STOP],
    ),
    "details and reasoning, once": (
        [
            say(
                "stop",
                reasoning="r",
                reasoning_details=[{"type": "reasoning.text", "text": "r", "signature": "s"}],
            )
        ],
        [ReasoningDelta("r"), ReasoningSignature("s"), STOP],
    ),
    "summary": (
        [say("stop", reasoning_details=[{"type": "reasoning.summary", "summary": "r"}])],
        [ReasoningDelta("r"), STOP],
    ),
    "signature later": (
        [say(reasoning="r"), say("stop", reasoning_details=[{"type": "reasoning.text", "signature": "s"}])],
        [ReasoningDelta("r"), ReasoningSignature("s"), STOP],
    ),
    "signature alone": (
        [say("stop", reasoning_details=[{"type": "reasoning.text", "signature": "s"}])],
        [ReasoningDelta(""), ReasoningSignature("s"), STOP],
    ),
    "signature after text": (
        [say(reasoning="r", content="a"), say("stop", reasoning_details=[{"signature": "s"}])],
        [ReasoningDelta("r"), TextDelta("a"), ReasoningDelta(""), ReasoningSignature("s"), STOP],
    ),
    "encrypted": (
        [say("stop", reasoning_details=[{"type": "reasoning.encrypted", "data": "x"}])],
        [RedactedReasoning("x"), STOP],
    ),
    "parts of type thinking": (
        [
            say(
                "stop",
                content=[
                    {"type": "thinking", "thinking": [{"type": "text", "text": "r"}]},
                    {"type": "text", "text": "a"},
                ],
            )
        ],
        [ReasoningDelta("r"), TextDelta("a"), STOP],
    ),
    "inline": ([say("stop", content="<think>r</think>a")], [ReasoningDelta("r"), TextDelta("a"), STOP]),
    "inline, cut tags": (
        [say(content=text) for text in ("\n", "<th", "ink>", "r<", "b</thi", "nk>", "a")] + [say("stop")],
        [ReasoningDelta("r"), ReasoningDelta("<b"), TextDelta("a"), STOP],
    ),
    "inline, never closed": (
        [say(content="<think>r</thi"), say("length")],
        [ReasoningDelta("r"), ReasoningDelta("</thi"), Stop("length")],
    ),
    "tag further on is text": (
        [say("stop", content="a <think>b</think>")],
        [TextDelta("a <think>b</think>"), STOP],
    ),
    "almost a tag": ([say(content="<th"), say("stop", content="e end")], [TextDelta("<the end"), STOP]),
    "tag after reasoning is text": (
        [say(reasoning="r"), say("stop", content="<think>")],
        [ReasoningDelta("r"), TextDelta("<think>"), STOP],
    ),
}

U = Usage(prompt=9, completion=4)
COUNTS = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
ZERO = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}

USAGE = {
    "chunk without choices": (
        [say("stop", content="a"), {"choices": [], "usage": COUNTS}],
        [TextDelta("a"), U, STOP],
    ),
    "choices null": (
        [say("stop", content="a"), {"choices": None, "usage": COUNTS}],
        [TextDelta("a"), U, STOP],
    ),
    "choices absent": ([say("stop", content="a"), {"usage": COUNTS}], [TextDelta("a"), U, STOP]),
    "in the last chunk": ([say(content="a"), say("stop") | {"usage": COUNTS}], [TextDelta("a"), U, STOP]),
    "zero, then on each": (
        [say(content="a") | {"usage": ZERO}, say("stop") | {"usage": COUNTS}],
        [TextDelta("a"), U, STOP],
    ),
    "null": ([say("stop", content="a") | {"usage": None}], [TextDelta("a"), STOP]),
    "inside the choice": ([say("stop", content="a", choice={"usage": COUNTS})], [TextDelta("a"), U, STOP]),
    "in two pieces": (
        [
            say(content="a") | {"usage": {"prompt_tokens": 9}},
            say("stop") | {"usage": {"prompt_tokens": None, "completion_tokens": 4}},
        ],
        [TextDelta("a"), U, STOP],
    ),
    "details": (
        [
            say("stop")
            | {
                "usage": COUNTS
                | {
                    "prompt_tokens_details": {"cached_tokens": 3},
                    "completion_tokens_details": {"reasoning_tokens": 2},
                }
            }
        ],
        [Usage(9, 4, 3, 2), STOP],
    ),
    "details null": ([say("stop") | {"usage": COUNTS | {"prompt_tokens_details": None}}], [U, STOP]),
    "cache by another name": (
        [say("stop") | {"usage": COUNTS | {"prompt_cache_hit_tokens": 5}}],
        [Usage(9, 4, 5), STOP],
    ),
    "nonsense": (
        [say("stop") | {"usage": {"prompt_tokens": "many", "completion_tokens": -1}}],
        [Usage(), STOP],
    ),
}

ENDS = {
    "finish on an early chunk": (
        [say("stop", reasoning="r"), say("stop", content="a")],
        [ReasoningDelta("r"), TextDelta("a"), STOP],
    ),
    "comments as data": (
        [": PROCESSING", say(content="a"), ":", "ping", "[HEARTBEAT]", "keep-alive", say("stop")],
        [TextDelta("a"), STOP],
    ),
    "foreign reason": ([say("end_turn", content="a")], [TextDelta("a"), STOP]),
    "stop where calls were made": (
        [use(call(index=0, id="a", name="f", arguments='{"x":1}'), finish="stop")],
        [*F, CALLS],
    ),
    "tool_calls where none was": ([say("tool_calls", content="a")], [TextDelta("a"), STOP]),
    "length": ([say("length", content="a")], [TextDelta("a"), Stop("length")]),
    "content filter": ([say("content_filter")], [Stop("content_filter")]),
    "stop string (vLLM)": (
        [say("stop", content="a", choice={"stop_reason": "END"})],
        [TextDelta("a"), Stop("stop", "END")],
    ),
    "stop string (SGLang)": (
        [say("stop", content="a", choice={"matched_stop": "END"})],
        [TextDelta("a"), Stop("stop", "END")],
    ),
    "stop token": (
        [say("stop", content="a", choice={"stop_reason": 7, "matched_stop": 7})],
        [TextDelta("a"), STOP],
    ),
    "[DONE] without finish": ([say(content="a")], [TextDelta("a"), STOP]),
    "[DONE] without finish, calls": ([use(call(index=0, id="a", name="f"))], [*called("a", "f"), CALLS]),
}

ROWS = {
    f"{group}: {name}": row
    for group, rows in {"text": TEXT, "reasoning": REASONING, "usage": USAGE, "end": ENDS}.items()
    for name, row in rows.items()
}


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["lf", "crlf", "cr"])
def test_stream(row, end):
    chunks, expected = ROWS[row]
    data = sse(*chunks, end=end)
    start, *events = read(data)
    assert (start.id, events) == ("chatcmpl-7", expected)
    assert read(data, pieces=[bytes([byte]) for byte in data])[1:] == expected


def test_usage_that_comes_first_is_in_the_start():
    start, *_ = read(sse(say(role="assistant", content="") | {"usage": {"prompt_tokens": 9}}, say("stop")))
    assert start == MessageStart("chatcmpl-7", Usage(prompt=9))
