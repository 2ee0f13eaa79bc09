from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.translation import responses
from fleet.translation.events import (
    Failure,
    MessageStart,
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
from tests.translation.items import TOOL, body, called, chat, made, message, output
from tests.translation.responses_validator import gather
from tests.translation.streams import answers, failures
from tests.translation.validator import frames

CALL = responses.to_chat(b'{"model":"m","input":"Hi"}')
START = MessageStart("chatcmpl-7")


def write(events):
    return responses.ResponsesWriter(CALL, created_at=1).write(events)


def whole(events):
    writer = responses.ResponsesWriter(CALL, created_at=1)
    writer.write(events)
    return writer.response


def test_the_response_repeats_the_request():
    call = responses.to_chat(body(tools=[TOOL], temperature=0.5, instructions="i", metadata={"a": "b"}))
    response = json.loads(json.dumps(responses_of(call)))
    assert response["tools"] == [TOOL]
    assert (response["temperature"], response["instructions"]) == (0.5, "i")
    assert (response["metadata"], response["tool_choice"]) == ({"a": "b"}, "auto")


def responses_of(call):
    writer = responses.ResponsesWriter(call, created_at=1)
    *_, last = frames(writer.write([START, Stop("stop")]))
    return last["response"]


@given(answers())
def test_the_stream_is_legal_and_ends_with_the_whole_response(events):
    assert gather(write(events)) == whole(events)


@given(answers(), st.data())
def test_events_in_any_portions_give_the_same_bytes(events, data):
    writer = responses.ResponsesWriter(CALL, created_at=1)
    place = data.draw(st.integers(0, len(events)))
    assert writer.write(events[:place]) + writer.write(events[place:]) == write(events)


@given(answers(end=failures), st.data())
def test_a_failure_anywhere_fails_the_response(events, data):
    place = data.draw(st.integers(0, len(events) - 1))
    response = gather(write([*events[:place], events[-1]]))
    assert response["error"]["message"] == events[-1].message


def test_every_kind_of_item():
    events = [
        START,
        ReasoningDelta("a"),
        ReasoningDelta("b"),
        TextDelta("c"),
        ToolCallStart("t1", "f"),
        ToolCallArguments('{"x":1}'),
        ToolCallEnd(),
        ToolCallStart("t2", "g"),
        ToolCallEnd(),
        RedactedReasoning("z"),
        ReasoningDelta("d"),
        ReasoningSignature("s"),
        Usage(10, 5, 4, 2),
        Stop("tool_calls"),
    ]
    response = gather(write(events))
    assert (response["id"], response["status"], response["created_at"]) == ("resp_7", "completed", 1)
    assert response["output"] == [
        {
            "id": "rs_7_0",
            "type": "reasoning",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "ab"}],
        },
        {
            "id": "msg_7_1",
            "type": "message",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "c", "annotations": [], "logprobs": []}],
        },
        {"id": "fc_7_2", "status": "completed"} | called("t1", "f", '{"x":1}'),
        {"id": "fc_7_3", "status": "completed"} | called("t2", "g", "{}"),
        {"id": "rs_7_4", "type": "reasoning", "summary": [], "content": [], "encrypted_content": "z"},
        {
            "id": "rs_7_5",
            "type": "reasoning",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "d"}],
            "encrypted_content": "s",
        },
    ]
    assert response["usage"] == {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 15,
    }


@pytest.mark.parametrize(
    ("reason", "why"), [("length", "max_output_tokens"), ("content_filter", "content_filter")]
)
def test_incomplete(reason, why):
    response = gather(write([START, TextDelta("a"), Stop(reason)]))
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": why})
    assert response["output"][0]["status"] == "incomplete"


def test_half_a_call_is_incomplete():
    events = [START, ToolCallStart("t", "f"), ToolCallArguments('{"x'), ToolCallEnd(), Stop("length")]
    item = gather(write(events))["output"][0]
    assert (item["status"], item["arguments"]) == ("incomplete", '{"x')


def test_failure_before_anything():
    writer = responses.ResponsesWriter(CALL, created_at=1, ident="req")
    response = gather(writer.write([Failure(429, "queue_full", "no room")]))
    assert response["id"] == "resp_req"
    assert response["error"] == {"code": "rate_limit_exceeded", "message": "no room"}


def test_from_chat():
    chosen = {"index": 0, "message": {"role": "assistant", "content": "Hi."}, "finish_reason": "stop"}
    answer = json.dumps({"id": "chatcmpl-7", "choices": [chosen]}).encode()
    response = responses.from_chat(answer, CALL, created_at=1)
    assert response["output"][0]["content"][0]["text"] == "Hi."
    with pytest.raises(ApiError, match="full"):
        responses.from_chat(b'{"error":"full"}', CALL, created_at=1)


def test_the_answer_can_be_sent_back_as_input():
    events = [
        START,
        ReasoningDelta("r"),
        TextDelta("a"),
        ToolCallStart("t", "f"),
        ToolCallEnd(),
        Stop("tool_calls"),
    ]
    items = [*whole(events)["output"], output("t")]
    assert chat(*items)["messages"] == [
        message("assistant", "a", reasoning_content="r", tool_calls=[made("t")]),
        message("tool", "ok", tool_call_id="t"),
    ]


def test_error_event():
    (event,) = frames(responses.error_event(ApiError(429, "queue_full", "no room")))
    assert (event["code"], event["message"], event["sequence_number"]) == ("queue_full", "no room", 0)
