"""Bodies that cannot be served, and the field that the answer names."""

from __future__ import annotations

import json

import pytest

from fleet.translation import messages
from neuron.wire import ApiError
from tests.translation.bodies import PNG, TOOL, assistant, body, result, use, user

FORMAT = {"type": "json_schema", "schema": {"type": "object"}}

BAD = {
    "model missing": (body(model=...), "model"),
    "model empty": (body(model=""), "model"),
    "max_tokens missing": (body(max_tokens=...), "max_tokens"),
    "max_tokens below zero": (body(max_tokens=-1), "max_tokens"),
    "messages missing": (body(messages=...), "messages"),
    "messages empty": (body(messages=[]), "messages"),
    "messages no list": (body(messages={}), "messages"),
    "role unknown": (body({"role": "tool", "content": "a"}), "messages[0].role"),
    "content missing": (body({"role": "user"}), "messages[0].content"),
    "content number": (body(user(3)), "messages[0].content"),
    "block without type": (body(user([{"text": "a"}])), "messages[0].content[0].type"),
    "block unknown": (body(user([{"type": "audio"}])), "messages[0].content[0].type"),
    "tool use by the user": (body(user([use()])), "messages[0].content[0].type"),
    "result by the assistant": (body(assistant([result()])), "messages[0].content[0].type"),
    "hosted tool's block": (
        body(assistant([{"type": "server_tool_use", "id": "a", "name": "b", "input": {}}])),
        "messages[0].content[0].type",
    ),
    "text missing": (body(user([{"type": "text"}])), "messages[0].content[0].text"),
    "image without source": (body(user([{"type": "image"}])), "messages[0].content[0].source"),
    "image file": (
        body(user([{"type": "image", "source": {"type": "file", "file_id": "f"}}])),
        "messages[0].content[0].source.type",
    ),
    "image of another kind": (
        body(user([{"type": "image", "source": PNG | {"media_type": "image/tiff"}}])),
        "messages[0].content[0].source.media_type",
    ),
    "document pdf": (
        body(user([{"type": "document", "source": PNG | {"media_type": "application/pdf"}}])),
        "messages[0].content[0].source.type",
    ),
    "use without id": (
        body(assistant([{"type": "tool_use", "name": "f", "input": {}}])),
        "messages[0].content[0].id",
    ),
    "use without input": (
        body(assistant([{"type": "tool_use", "id": "t", "name": "f"}])),
        "messages[0].content[0].input",
    ),
    "input no object": (body(assistant([use(input=[1])])), "messages[0].content[0].input"),
    "result without id": (body(user([{"type": "tool_result"}])), "messages[0].content[0].tool_use_id"),
    "result of no call": (
        body(user("a"), assistant([use("t1")]), user("b"), user([result("t2")])),
        "messages[3].content[0].tool_use_id",
    ),
    "result before its call": (
        body(user([result()]), assistant([use()])),
        "messages[0].content[0].tool_use_id",
    ),
    "result's block unknown": (
        body(assistant([use()]), user([result(content=[{"type": "x"}])])),
        "messages[1].content[0].content[0].type",
    ),
    "system number": (body(system=1), "system"),
    "system image": (body(system=[{"type": "image", "source": PNG}]), "system[0].type"),
    "temperature": (body(temperature=3), "temperature"),
    "top_p": (body(top_p=2), "top_p"),
    "stream": (body(stream="yes"), "stream"),
    "stop sequence empty": (body(stop_sequences=["a", ""]), "stop_sequences[1]"),
    "tool without name": (body(tools=[{"input_schema": {}}]), "tools[0].name"),
    "tool without schema": (body(tools=[TOOL, {"name": "g"}]), "tools[1].input_schema"),
    "schema no object": (body(tools=[{"name": "g", "input_schema": []}]), "tools[0].input_schema"),
    "hosted tool": (body(tools=[{"type": "web_search_20250305", "name": "web_search"}]), "tools[0].type"),
    "function no object": (body(tools=[{"type": "function", "function": 1}]), "tools[0].function"),
    "choice unknown": (body(tools=[TOOL], tool_choice={"type": "x"}), "tool_choice.type"),
    "choice of any of none": (body(tool_choice={"type": "any"}), "tool_choice"),
    "choice of no tool": (body(tools=[TOOL], tool_choice={"type": "tool", "name": "g"}), "tool_choice.name"),
    "choice without name": (body(tools=[TOOL], tool_choice={"type": "tool"}), "tool_choice.name"),
    "format of an answer that has begun": (
        body(
            user("a"),
            assistant("{"),
            output_config={"format": {"type": "json_schema", "schema": {"type": "object"}}},
        ),
        "output_config.format",
    ),
    "format by both its names": (
        body(output_format=FORMAT, output_config={"format": FORMAT}),
        "output_format",
    ),
    "schema of the older format": (body(output_format=FORMAT | {"schema": 1}), "output_format.schema"),
    "reference without name": (
        body(assistant([use()]), user([result(content=[{"type": "tool_reference"}])])),
        "messages[1].content[0].content[0].tool_name",
    ),
    "thinking unknown": (body(thinking={"type": "x"}), "thinking.type"),
    "user number": (body(metadata={"user_id": 1}), "metadata.user_id"),
    "compaction": (body(compaction={"type": "auto"}), "compaction"),
    "a system turn for a while": (
        body(user("a"), {"role": "system", "content": "b", "clear_at": "next_user_message"}),
        "messages[1].clear_at",
    ),
    "thread": (body(thread={"type": "create"}), "thread"),
    "mcp servers": (body(mcp_servers=[{"type": "url", "url": "https://h"}]), "mcp_servers"),
    "no JSON": (b"{", None),
    "empty": (b"", None),
    "no UTF-8": (b'{"model":"\xff"}', None),
    "no object": (b"[]", None),
    "too deep": (body(x=...)[:-1] + b',"x":' + b"[" * 100_000, None),
}


@pytest.mark.parametrize("row", BAD)
def test_bad_input_names_its_field(row):
    sent, param = BAD[row]
    with pytest.raises(ApiError) as caught:
        messages.to_chat(sent)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert json.loads(messages.error_body(caught.value))["error"]["type"] == "invalid_request_error"


def test_an_unknown_block_is_named():
    with pytest.raises(ApiError, match="'audio'"):
        messages.to_chat(body(user([{"type": "audio"}])))
