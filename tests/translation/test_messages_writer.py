from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.translation import MessagesWriter, messages
from fleet.translation.events import (
    LEGAL,
    Failure,
    Grammar,
    IllegalEvent,
    MessageStart,
    Phase,
    ReasoningDelta,
    ReasoningSignature,
    RedactedReasoning,
    Stop,
    TextDelta,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
    Usage,
)
from neuron.wire import ApiError
from tests.translation.streams import answers, failures
from tests.translation.validator import frames, gather

START = MessageStart("chatcmpl-7")


def write(events):
    return MessagesWriter("claude").write(events)


def whole(events):
    return json.loads(messages.encode_message(events, "claude"))


def types(data):
    return [event["type"] for event in frames(data)]


@given(answers())
def test_the_stream_is_legal_and_gathers_to_the_whole_message(events):
    gathered = gather(write(events))
    assert gathered.failure is None
    assert gathered.message == whole(events)


@given(answers(), st.data())
def test_events_in_any_portions_give_the_same_bytes(events, data):
    writer, place = MessagesWriter("claude"), data.draw(st.integers(0, len(events)))
    assert writer.write(events[:place]) + writer.write(events[place:]) == write(events)


@given(answers(end=failures), st.data())
def test_a_failure_anywhere_is_the_last_thing_said(events, data):
    place = data.draw(st.integers(0, len(events) - 1))
    events = [*events[:place], events[-1]]
    gathered = gather(write(events))
    assert gathered.failure["message"] == events[-1].message
    with pytest.raises(ApiError) as caught:
        whole(events)
    assert caught.value.status == events[-1].status


@pytest.mark.parametrize("event", [TextDelta("a"), ReasoningDelta("a"), ToolCallStart("t", "f")])
def test_a_failure_leaves_its_block_open(event):
    writer = MessagesWriter("claude")
    writer.write([START, event])
    assert types(writer.write([Failure(500, "c", "m")])) == ["error"]


def test_every_kind_of_block_in_order():
    events = [
        START,
        ReasoningDelta("a"),
        ReasoningDelta("b"),
        TextDelta("c"),
        TextDelta("d"),
        ToolCallStart("t1", "f"),
        ToolCallArguments('{"x":'),
        ToolCallArguments("1}"),
        ToolCallEnd(),
        ToolCallStart("t2", "g"),
        ToolCallEnd(),
        Usage(prompt=10, completion=5, cached=4),
        Stop("tool_calls"),
    ]
    expected = {
        "id": "msg_7",
        "type": "message",
        "role": "assistant",
        "model": "claude",
        "content": [
            {"type": "thinking", "thinking": "ab", "signature": "dW5zaWduZWQ="},
            {"type": "text", "text": "cd"},
            {"type": "tool_use", "id": "t1", "name": "f", "input": {"x": 1}},
            {"type": "tool_use", "id": "t2", "name": "g", "input": {}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "stop_details": None,
        "usage": {
            "input_tokens": 6,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 4,
            "output_tokens": 5,
        },
    }
    data = write(events)
    assert whole(events) == gather(data).message == expected
    assert types(data) == [
        *("message_start", "ping"),
        *("content_block_start", "content_block_delta", "content_block_delta", "content_block_delta"),
        *("content_block_stop", "content_block_start", "content_block_delta", "content_block_delta"),
        *("content_block_stop", "content_block_start", "content_block_delta", "content_block_delta"),
        *("content_block_stop", "content_block_start", "content_block_stop", "message_delta", "message_stop"),
    ]


def test_no_event_waits_for_the_next():
    writer = MessagesWriter("claude")
    assert types(writer.write([START])) == ["message_start", "ping"]
    assert types(writer.write([TextDelta("a")])) == ["content_block_start", "content_block_delta"]
    assert types(writer.write([TextDelta("b")])) == ["content_block_delta"]
    assert writer.write([Usage(1, 2)]) == b""


def test_author_signature_and_redacted_reasoning_pass():
    events = [START, ReasoningDelta("a"), ReasoningSignature("s"), RedactedReasoning("x"), Stop("stop")]
    content = gather(write(events)).message["content"]
    assert content == whole(events)["content"]
    assert content == [
        {"type": "thinking", "thinking": "a", "signature": "s"},
        {"type": "redacted_thinking", "data": "x"},
    ]


@pytest.mark.parametrize(
    ("stop", "reason", "sequence"),
    [
        (Stop("stop"), "end_turn", None),
        (Stop("stop", "END"), "stop_sequence", "END"),
        (Stop("length"), "max_tokens", None),
        (Stop("tool_calls"), "tool_use", None),
        (Stop("content_filter"), "refusal", None),
    ],
)
def test_stop_reason(stop, reason, sequence):
    message = gather(write([START, stop])).message
    assert (message["stop_reason"], message["stop_sequence"]) == (reason, sequence)


def test_input_is_counted_at_the_start_where_it_is_known():
    start, *_ = frames(write([MessageStart("x", Usage(prompt=9, cached=2)), Stop("stop")]))
    assert start["message"]["usage"]["input_tokens"] == 7
    assert start["message"]["usage"]["cache_read_input_tokens"] == 2
    assert whole([MessageStart("x", Usage(prompt=9)), Stop("stop")])["usage"]["input_tokens"] == 9


@pytest.mark.parametrize("arguments", ['{"x', "nonsense", "[1]", '"{}"', "{" * 5000])
def test_arguments_that_are_no_object_are_kept_and_cannot_run(arguments):
    events = [START, ToolCallStart("t", "f"), ToolCallArguments(arguments), ToolCallEnd(), Stop("length")]
    assert whole(events)["content"][0]["input"] == {"INVALID_JSON": arguments}


def test_numbers_keep_every_digit():
    arguments = '{"big":123456789012345678901234567890,"float":1.10}'
    events = [START, ToolCallStart("t", "f"), ToolCallArguments(arguments), ToolCallEnd(), Stop("tool_calls")]
    assert arguments.encode() in messages.encode_message(events, "claude")


def test_the_table_is_the_grammar():
    assert set(LEGAL) == set(Phase)
    grammar = Grammar()
    for event in (START, TextDelta("a"), ToolCallStart("t", "f"), ToolCallEnd(), Stop("stop")):
        grammar.step(event)
    assert grammar.phase is Phase.OVER


@pytest.mark.parametrize(
    "events",
    [
        [TextDelta("a")],
        [START, START],
        [START, ToolCallArguments("{}")],
        [START, ToolCallEnd()],
        [START, ToolCallStart("t", "f"), TextDelta("a")],
        [START, ToolCallStart("t", "f"), ToolCallStart("u", "f")],
        [START, ToolCallStart("t", "f"), Stop("stop")],
        [START, TextDelta("a"), ReasoningSignature("s")],
        [START, Stop("stop"), TextDelta("a")],
        [START, Stop("stop"), Usage()],
        [Failure(500, "x", "y"), Stop("stop")],
    ],
)
def test_events_that_are_no_answer_are_our_own_mistake(events):
    with pytest.raises(IllegalEvent, match="cannot come"):
        write(events)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (409, "invalid_request_error"),
        (413, "request_too_large"),
        (422, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
        (529, "overloaded_error"),
    ],
)
def test_error_types(status, kind):
    error = ApiError(status, "code", "what", param="messages[0].role")
    expected = {"type": "error", "error": {"type": kind, "message": "messages[0].role: what"}}
    expected["error"]["details"] = {"error_code": "code"}
    assert json.loads(messages.error_body(error)) == expected
    assert list(frames(messages.error_event(error))) == [expected]


def test_error_without_a_field():
    assert json.loads(messages.error_body(ApiError(500, "c", "what")))["error"]["message"] == "what"


def test_from_chat():
    chosen = {"index": 0, "message": {"role": "assistant", "content": "Hi."}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    body = json.dumps({"id": "chatcmpl-7", "choices": [chosen], "usage": usage}).encode()
    message = json.loads(messages.from_chat(body, "claude"))
    assert message["id"] == "msg_7"
    assert message["model"] == "claude"
    assert message["content"] == [{"type": "text", "text": "Hi."}]
    assert message["usage"]["input_tokens"] == 3


def test_from_chat_raises_what_the_upstream_said():
    with pytest.raises(ApiError, match="full") as caught:
        messages.from_chat(b'{"error":{"message":"full","code":503}}', "claude")
    assert caught.value.status == 503
