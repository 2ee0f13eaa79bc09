from __future__ import annotations

import json

import pytest

from fleet.translation import read_completion
from fleet.translation.events import (
    Failure,
    MessageStart,
    ReasoningDelta,
    Stop,
    TextDelta,
    Usage,
)
from tests.translation.tape import call, called, read

START = MessageStart("chatcmpl-7")
STOP = Stop("stop")
CALLS = Stop("tool_calls")
F, G = called("a", "f", '{"x":1}'), called("b", "g", "{}")

U = Usage(prompt=9, completion=4)
COUNTS = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}


def whole(finish="stop", usage=COUNTS, **message):
    return {
        "id": "chatcmpl-7",
        "choices": [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}],
        "usage": usage,
    }


COMPLETIONS = {
    "text": (whole(content="a"), [TextDelta("a"), U, STOP]),
    "reasoning": (whole(content="a", reasoning_content="r"), [ReasoningDelta("r"), TextDelta("a"), U, STOP]),
    "calls": (
        whole(
            "tool_calls",
            content=None,
            tool_calls=[call(id="a", name="f", arguments='{"x":1}'), call(id="b", name="g", arguments="{}")],
        ),
        [*F, *G, U, CALLS],
    ),
    "calls without id or index": (
        whole(tool_calls=[call(name="f", arguments={}), call(name="f"), call(name="f", arguments="")]),
        [*called("call_7_0", "f", "{}"), *called("call_7_1", "f"), *called("call_7_2", "f"), U, CALLS],
    ),
    "calls with one index": (
        whole(
            tool_calls=[
                call(index=0, name="f", id="a", arguments='{"x":1}'),
                call(index=0, id="b", name="g", arguments="{}"),
            ]
        ),
        [*F, *G, U, CALLS],
    ),
    "empty": (whole(content=""), [U, STOP]),
    "no finish": (whole(None, content="a"), [TextDelta("a"), U, STOP]),
}


@pytest.mark.parametrize("row", COMPLETIONS)
def test_whole_completion(row):
    payload, expected = COMPLETIONS[row]
    body = json.dumps(payload).encode()
    assert read_completion(body)[1:] == expected
    assert read(body)[1:] == expected  # the same body where a stream was asked for


@pytest.mark.parametrize("body", [b"", b"{}", b'{"choices":[]}', b"[]", b"<html>", b'{"choices":[{}'])
def test_whole_body_that_is_no_answer(body):
    assert [event.code for event in read_completion(body) if isinstance(event, Failure)] == [
        "upstream_malformed"
    ]


def test_whole_body_that_is_an_error():
    body = b'{"error":{"message":"full","type":"overloaded_error","code":"busy"}}'
    assert read_completion(body) == [Failure(503, "busy", "full")]
