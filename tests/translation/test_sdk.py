"""The official SDK reads our bytes: what it gathers from the stream is the answer that is not streamed."""

from __future__ import annotations

import json

import anthropic
import httpx2
import pytest
from anthropic.lib.streaming._messages import accumulate_event
from hypothesis import given

from fleet.translation import MessagesWriter, messages
from fleet.translation.events import (
    Failure,
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
from tests.translation.streams import answers
from tests.translation.validator import frames

ASKED = {"model": "claude", "max_tokens": 16, "messages": [{"role": "user", "content": "Hi"}]}


def client(content, *, status=200, kind="text/event-stream"):
    def answer(_request):
        return httpx2.Response(status, headers={"content-type": kind}, content=content)

    http = httpx2.Client(transport=httpx2.MockTransport(answer))
    return anthropic.Anthropic(api_key="x", base_url="http://node", http_client=http, max_retries=0)


def streamed(events):
    with client(MessagesWriter("claude").write(events)) as sdk, sdk.messages.stream(**ASKED) as stream:
        return stream.get_final_message()


def whole(events):
    with client(messages.encode_message(events, "claude"), kind="application/json") as sdk:
        return sdk.messages.create(**ASKED)


def fields(message):
    return json.loads(message.to_json())


ANSWER = [
    MessageStart("chatcmpl-7"),
    ReasoningDelta("hm"),
    TextDelta("a"),
    TextDelta("b"),
    ToolCallStart("t1", "f"),
    ToolCallArguments('{"x":'),
    ToolCallArguments("[1]}"),
    ToolCallEnd(),
    ToolCallStart("t2", "g"),
    ToolCallEnd(),
    Usage(prompt=9, completion=4, cached=3),
    Stop("tool_calls"),
]


def test_stream_and_whole_are_one_message():
    message = streamed(ANSWER)
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert message.content[2].input == {"x": [1]}
    assert message.usage.input_tokens == 6
    assert message.usage.cache_read_input_tokens == 3
    assert fields(message) == fields(whole(ANSWER))


def is_object(block):
    return block["type"] != "tool_use" or "INVALID_JSON" not in block["input"]


@given(answers())
def test_any_stream_is_the_whole_message(events):
    expected = json.loads(messages.encode_message(events, "claude"))
    if all(map(is_object, expected["content"])):  # the SDK guesses at half objects; we do not
        found = gathered(events)
        assert {name: found[name] for name in expected} == expected


def gathered(events):
    """What the SDK's accumulator makes of the stream, without a client around it."""

    snapshot, buffers = None, {}
    for event in frames(MessagesWriter("claude").write(events)):
        if event["type"] != "ping":
            snapshot = accumulate_event(event=event, current_snapshot=snapshot, json_bufs=buffers)
    return json.loads(snapshot.to_json(exclude_unset=True))


def test_an_error_event_raises_in_the_stream():
    events = [MessageStart("x"), TextDelta("a"), Failure(503, "busy", "no room")]
    with pytest.raises(anthropic.APIStatusError, match="no room"):
        streamed(events)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, anthropic.BadRequestError),
        (401, anthropic.AuthenticationError),
        (403, anthropic.PermissionDeniedError),
        (404, anthropic.NotFoundError),
        (429, anthropic.RateLimitError),
        (500, anthropic.InternalServerError),
    ],
)
def test_an_error_body_raises_its_class(status, error):
    refused = messages.error_body(ApiError(status, "c", "what", param="model"))
    with client(refused, status=status, kind="application/json") as sdk, pytest.raises(error) as caught:
        sdk.messages.create(**ASKED)
    assert caught.value.body["error"]["message"] == "model: what"


def test_what_the_sdk_sends_is_understood():
    sent = []

    def answer(request):
        sent.append(request.content)
        return httpx2.Response(200, json=json.loads(messages.encode_message(ANSWER, "claude")))

    http = httpx2.Client(transport=httpx2.MockTransport(answer))
    with anthropic.Anthropic(api_key="x", base_url="http://node", http_client=http, max_retries=0) as sdk:
        first = sdk.messages.create(**ASKED)
        results = [{"type": "tool_result", "tool_use_id": name, "content": "ok"} for name in ("t1", "t2")]
        turns = [*ASKED["messages"], {"role": "assistant", "content": first.content}]
        sdk.messages.create(**ASKED | {"messages": [*turns, {"role": "user", "content": results}]})
    chat = json.loads(messages.to_chat(sent[1]).body)["messages"]
    assert [message["role"] for message in chat] == ["user", "assistant", "tool", "tool"]
    assert chat[1]["reasoning_content"] == "hm"
    assert "reasoning_details" not in chat[1]
    assert chat[1]["content"] == "ab"
    assert [json.loads(made["function"]["arguments"]) for made in chat[1]["tool_calls"]] == [{"x": [1]}, {}]
