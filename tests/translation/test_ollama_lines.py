from __future__ import annotations

import json
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.translation import ollama
from fleet.translation.events import (
    MessageStart,
    ReasoningDelta,
    Stop,
    TextDelta,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
    Usage,
)
from neuron.wire import ApiError
from tests.translation.streams import answers, failures

START = MessageStart("chatcmpl-7")
TIMES = {"created_at", "total_duration", "load_duration", "prompt_eval_duration", "eval_duration"}
FIELDS = {"chat": ollama.chat_fields, "generate": ollama.generate_fields}


def writer(fields=ollama.chat_fields):
    seconds = count(1_800_000_000)
    return ollama.LinesWriter("m", fields, lambda: float(next(seconds)), float(next(seconds)))


def lines(data):
    assert not data or data.endswith(b"\n")
    return [json.loads(line) for line in data.splitlines()]


def said(line, fields):
    return line["message"] if fields is ollama.chat_fields else {"content": line["response"]} | line


def gathered(data, fields):
    """What a client puts together."""
    *before, last = lines(data)
    assert not any(line["done"] for line in before)
    assert last["done"]
    parts = [said(line, fields) for line in (*before, last)]
    text = "".join(part["content"] for part in parts)
    thoughts = "".join(part.get("thinking", "") for part in parts)
    calls = [call for part in parts for call in part.get("tool_calls", ())]
    spoken = {"message", "response", "thinking", "tool_calls"}
    end = {name: value for name, value in last.items() if name not in spoken}
    return text, thoughts, calls, without_times(end)


def without_times(line):
    return {name: value for name, value in line.items() if name not in TIMES}


@pytest.mark.parametrize("shape", FIELDS)
@given(events=answers())
def test_the_stream_gathers_to_the_whole_answer(shape, events):
    fields = FIELDS[shape]
    whole = writer(fields).whole(events)
    assert gathered(writer(fields).write(events), fields) == gathered(whole + b"\n", fields)


@given(answers(), st.data())
def test_events_in_any_portions_give_the_same_bytes(events, data):
    place = data.draw(st.integers(0, len(events)))
    portions = writer()
    assert portions.write(events[:place]) + portions.write(events[place:]) == writer().write(events)


@given(answers(end=failures), st.data())
def test_a_failure_anywhere_is_the_last_line(events, data):
    place = data.draw(st.integers(0, len(events) - 1))
    events = [*events[:place], events[-1]]
    assert lines(writer().write(events))[-1] == {"error": events[-1].message}
    with pytest.raises(ApiError) as caught:
        writer().whole(events)
    assert caught.value.status == events[-1].status


def test_every_line():
    events = [
        START,
        ReasoningDelta("Hm."),
        TextDelta("Hi"),
        ToolCallStart("c1", "f"),
        ToolCallArguments('{"x":'),
        ToolCallArguments("1}"),
        ToolCallEnd(),
        ToolCallStart("c2", "g"),
        ToolCallEnd(),
        Usage(prompt=10, completion=5, cached=4),
        Stop("tool_calls"),
    ]
    found = lines(writer().write(events))
    assert [line["message"] for line in found] == [
        {"role": "assistant", "content": "", "thinking": "Hm."},
        {"role": "assistant", "content": "Hi"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "c1", "function": {"index": 0, "name": "f", "arguments": {"x": 1}}}],
        },
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "c2", "function": {"index": 1, "name": "g", "arguments": {}}}],
        },
        {"role": "assistant", "content": ""},
    ]
    assert {line["model"] for line in found} == {"m"}
    assert without_times(found[-1]) == {
        "model": "m",
        "message": {"role": "assistant", "content": ""},
        "done": True,
        "done_reason": "stop",
        "prompt_eval_count": 10,
        "eval_count": 5,
    }


def test_times_are_those_that_the_gateway_saw():
    # The clock moves by a second at each look: begun, first token, its line, the last line, its end.
    first, last = lines(writer().write([START, TextDelta("Hi"), Stop("stop")]))
    assert first["created_at"] == "2027-01-15T08:00:02.000000Z"
    second = 10**9
    assert last["prompt_eval_duration"] == second
    assert last["total_duration"] == 4 * second
    assert last["eval_duration"] == 3 * second
    assert last["load_duration"] == 0


def test_a_whole_answer_has_its_time_in_one_place():
    answer = json.loads(writer().whole([START, Stop("stop")]))
    assert answer["eval_duration"] == answer["total_duration"]
    assert "prompt_eval_duration" not in answer


@pytest.mark.parametrize(
    ("reason", "done"),
    [("stop", "stop"), ("length", "length"), ("tool_calls", "stop"), ("content_filter", "content_filter")],
)
def test_done_reason(reason, done):
    assert lines(writer().write([START, Stop(reason)]))[-1]["done_reason"] == done


def test_usage_at_the_start_counts():
    events = [MessageStart("x", Usage(prompt=9, completion=2)), Stop("stop")]
    assert json.loads(writer().whole(events))["prompt_eval_count"] == 9


@pytest.mark.parametrize("arguments", ['{"x', "nonsense", "[1]"])
def test_arguments_that_are_no_object_are_kept_in_one(arguments):
    events = [START, ToolCallStart("t", "f"), ToolCallArguments(arguments), ToolCallEnd(), Stop("length")]
    (call,) = json.loads(writer().whole(events))["message"]["tool_calls"]
    assert call["function"]["arguments"] == {"INVALID_JSON": arguments}


def test_lines_before_and_in_place_of_an_answer():
    (line,) = lines(writer().waiting())
    assert (line["message"]["content"], line["done"]) == ("", False)
    loaded = json.loads(writer(ollama.generate_fields).loaded())
    assert (loaded["response"], loaded["done"], loaded["done_reason"]) == ("", True, "load")


def test_an_error_begins_with_its_field():
    error = ApiError(400, "c", "what", param="think")
    assert json.loads(ollama.error_body(error)) == {"error": "think: what"}
    assert json.loads(ollama.error_body(ApiError(500, "c", "what"))) == {"error": "what"}
