"""The official SDK reads our bytes: what it gathers from the stream is the response that is not streamed."""

from __future__ import annotations

import json

import httpx2
import openai
from hypothesis import given
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from fleet.translation import responses
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
from tests.translation.streams import answers
from tests.translation.validator import frames

CALL = responses.to_chat(b'{"model":"m","input":"Hi","stream":true}')
EVENTS = TypeAdapter(ResponseStreamEvent)
ANSWER = [
    MessageStart("chatcmpl-7"),
    ReasoningDelta("hm"),
    TextDelta("a"),
    TextDelta("b"),
    ToolCallStart("t1", "f"),
    ToolCallArguments('{"x":'),
    ToolCallArguments("[1]}"),
    ToolCallEnd(),
    Usage(prompt=9, completion=4, cached=3),
    Stop("tool_calls"),
]


def write(events):
    writer = responses.ResponsesWriter(CALL, created_at=1, ident="req")
    return writer.write(events), json.loads(json.dumps(writer.response))


@given(answers())
def test_the_sdk_accepts_every_event_and_gathers_the_output(events):
    data, response = write(events)
    state = ResponseStreamState(input_tools=openai.omit, text_format=openai.omit)
    gathered = []
    for payload in frames(data):
        event = EVENTS.validate_python(payload)
        gathered += state.handle_event(event)
    last = json.loads(gathered[-1].response.to_json(exclude_unset=True))
    assert last["status"] == response["status"]
    assert len(last["output"]) == len(response["output"])
    for found, item in zip(last["output"], response["output"], strict=True):
        assert {name: found[name] for name in item if name != "content"} == {
            name: value for name, value in item.items() if name != "content"
        }


def test_through_a_client():
    data, response = write(ANSWER)

    def answer(_request):
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=data)

    http = httpx2.Client(transport=httpx2.MockTransport(answer))
    with (
        openai.OpenAI(api_key="x", base_url="http://node", http_client=http, max_retries=0) as sdk,
        sdk.responses.stream(model="m", input="Hi") as stream,
    ):
        final = stream.get_final_response()
    assert final.output_text == "ab"
    assert final.output[2].arguments == '{"x":[1]}'
    assert final.usage.total_tokens == 13
    assert final.id == response["id"]
