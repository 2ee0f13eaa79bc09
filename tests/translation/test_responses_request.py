from __future__ import annotations

import json

import pytest

from fleet.translation import responses
from neuron.wire import ApiError
from tests.translation.items import CHAT_TOOL, TOOL, body, called, chat, made, message, output, thought


def allowed(mode, *names):
    tools = [{"type": "function", "name": name} for name in names]
    return {"type": "allowed_tools", "mode": mode, "tools": tools}


ITEMS = {
    "no parts": ([message("user", [])], [message("user", "")]),
    "untyped": ([message("user", "a")], [message("user", "a")]),
    "typed": ([message("user", "a", type="message", id="x", status="completed")], [message("user", "a")]),
    "developer and system stay where they are": (
        [message("developer", "a"), message("user", "b"), message("system", "c")],
        [message("developer", "a"), message("user", "b"), message("system", "c")],
    ),
    "one part": ([message("user", [{"type": "input_text", "text": "a"}])], [message("user", "a")]),
    "image": (
        [
            message(
                "user",
                [
                    {"type": "input_text", "text": "a"},
                    {"type": "input_image", "image_url": "data:x", "detail": "low"},
                ],
            )
        ],
        [
            message(
                "user",
                [
                    {"type": "text", "text": "a"},
                    {"type": "image_url", "image_url": {"url": "data:x", "detail": "low"}},
                ],
            )
        ],
    ),
    "refusal": ([message("assistant", [{"type": "refusal", "refusal": "no"}])], [message("assistant", "no")]),
    "one turn": (
        [
            thought(),
            message("assistant", [{"type": "output_text", "text": "a", "annotations": []}]),
            called("c1"),
            called("c2"),
            output("c1"),
            output("c2", "no"),
        ],
        [
            message("assistant", "a", reasoning_content="r", tool_calls=[made("c1"), made("c2")]),
            message("tool", "ok", tool_call_id="c1"),
            message("tool", "no", tool_call_id="c2"),
        ],
    ),
    "a turn in pieces": (
        [message("assistant", "a"), message("assistant", "b"), called(), thought(), called("c2")],
        [
            message(
                "assistant",
                [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
                reasoning_content="r",
                tool_calls=[made(), made("c2")],
            ),
        ],
    ),
    "text after calls": (
        [called("c1"), message("assistant", "a"), called("c2"), output("c2"), output("c1", "no")],
        [
            message("assistant", "a", tool_calls=[made("c1"), made("c2")]),
            message("tool", "ok", tool_call_id="c2"),
            message("tool", "no", tool_call_id="c1"),
        ],
    ),
    "thoughts that were not kept": (
        [called("c1"), {"type": "reasoning", "summary": []}, called("c2"), output("c1"), output("c2")],
        [
            message("assistant", None, tool_calls=[made("c1"), made("c2")]),
            message("tool", "ok", tool_call_id="c1"),
            message("tool", "ok", tool_call_id="c2"),
        ],
    ),
    "a message between call and output": (
        [called(), message("developer", "d"), output(), message("user", "u")],
        [
            message("assistant", None, tool_calls=[made()]),
            message("tool", "ok", tool_call_id="c1"),
            message("developer", "d"),
            message("user", "u"),
        ],
    ),
    "an output that comes late": (
        [called("c1"), message("user", "u"), called("c2"), output("c1"), output("c2")],
        [
            message("assistant", None, tool_calls=[made("c1")]),
            message("tool", "ok", tool_call_id="c1"),
            message("user", "u"),
            message("assistant", None, tool_calls=[made("c2")]),
            message("tool", "ok", tool_call_id="c2"),
        ],
    ),
    "output of parts": (
        [
            called(),
            output(given=[{"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": "u"}]),
        ],
        [
            message("assistant", None, tool_calls=[made()]),
            message(
                "tool",
                [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "u"}}],
                tool_call_id="c1",
            ),
        ],
    ),
    "summary": (
        [
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "s"}]},
            message("assistant", "a"),
        ],
        [message("assistant", "a", reasoning_content="s")],
    ),
    "encrypted": (
        [
            {"type": "reasoning", "summary": [], "encrypted_content": "x"},
            thought(encrypted_content="S"),
            thought("q"),
        ],
        [
            message(
                "assistant",
                "",
                reasoning_content="r\nq",
                reasoning_details=[
                    {"type": "reasoning.encrypted", "data": "x"},
                    {"type": "reasoning.text", "text": "r", "signature": "S"},
                ],
            )
        ],
    ),
}

SCHEMA = {"type": "object"}

FIELDS = {
    "nothing": ({}, {}),
    "sampling": (
        {"temperature": 0.5, "top_p": 0.9, "max_output_tokens": 7, "user": "u"},
        {"temperature": 0.5, "top_p": 0.9, "max_tokens": 7, "user": "u"},
    ),
    "stream": ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
    "tolerated": (
        {
            "store": False,
            "include": ["reasoning.encrypted_content"],
            "truncation": "auto",
            "prompt_cache_key": "k",
            "x": 1,
        },
        {},
    ),
    "effort": ({"reasoning": {"effort": "low", "summary": "auto"}}, {"reasoning_effort": "low"}),
    "no reasoning": ({"reasoning": {"effort": "none"}}, {"chat_template_kwargs": {"enable_thinking": False}}),
    "text": ({"text": {"format": {"type": "text"}, "verbosity": "low"}}, {"verbosity": "low"}),
    "json object": (
        {"text": {"format": {"type": "json_object"}}},
        {"response_format": {"type": "json_object"}},
    ),
    "json schema": (
        {"text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}}},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "n", "schema": SCHEMA, "strict": True},
            }
        },
    ),
    "tools": (
        {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False},
        {"tools": [CHAT_TOOL], "tool_choice": "required", "parallel_tool_calls": False},
    ),
    "one tool": (
        {"tools": [TOOL], "tool_choice": {"type": "function", "name": "f"}},
        {"tools": [CHAT_TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}},
    ),
    "some tools": (
        {"tools": [TOOL], "tool_choice": allowed("auto", "f")},
        {
            "tools": [CHAT_TOOL],
            "tool_choice": {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "f"}}]},
            },
        },
    ),
    "no tools": ({"tools": [], "tool_choice": "auto", "parallel_tool_calls": True}, {}),
    "tool without parameters": (
        {"tools": [{"type": "function", "name": "f", "parameters": None}]},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
    ),
}

BAD = {
    "model missing": (body(model=...), "model"),
    "nothing to answer": (body(input=[]), "input"),
    "input number": (body(input=1), "input"),
    "item no object": (body("a"), "input[0]"),
    "role unknown": (body(message("user", "a"), message("tool", "a")), "input[1].role"),
    "content missing": (body({"role": "user"}), "input[0].content"),
    "item unknown": (body({"type": "web_search_call", "id": "x"}), "input[0].type"),
    "item reference": (body({"type": "item_reference", "id": "x"}), "input[0].id"),
    "part unknown": (body(message("user", [{"type": "input_file"}])), "input[0].content[0].type"),
    "image by file": (
        body(message("user", [{"type": "input_image", "file_id": "f"}])),
        "input[0].content[0].image_url",
    ),
    "call without id": (body({"type": "function_call", "name": "f", "arguments": ""}), "input[0].call_id"),
    "output of no call": (body(message("user", "a"), output()), "input[1].call_id"),
    "hosted tool": (body(tools=[TOOL, {"type": "web_search"}]), "tools[1].type"),
    "tool without name": (body(tools=[{"type": "function"}]), "tools[0].name"),
    "parameters no object": (body(tools=[TOOL | {"parameters": []}]), "tools[0].parameters"),
    "choice of no tool": (
        body(tools=[TOOL], tool_choice={"type": "function", "name": "g"}),
        "tool_choice.name",
    ),
    "choice of a hosted tool": (body(tools=[TOOL], tool_choice={"type": "web_search"}), "tool_choice.type"),
    "allowed tool that is none": (
        body(tools=[TOOL], tool_choice=allowed("auto", "f", "g")),
        "tool_choice.tools[1].name",
    ),
    "no allowed tools": (body(tools=[TOOL], tool_choice=allowed("required")), "tool_choice.tools"),
    "allowed tools without mode": (
        body(tools=[TOOL], tool_choice=allowed(None, "f")),
        "tool_choice.mode",
    ),
    "allowed tools in another mode": (
        body(tools=[TOOL], tool_choice=allowed("none", "f")),
        "tool_choice.mode",
    ),
    "required of none": (body(tools=[], tool_choice="required"), "tool_choice"),
    "schema missing": (body(text={"format": {"type": "json_schema", "name": "n"}}), "text.format.schema"),
    "format unknown": (body(text={"format": {"type": "xml"}}), "text.format.type"),
    "metadata of numbers": (body(metadata={"a": 5}), "metadata"),
    "tokens zero": (body(max_output_tokens=0), "max_output_tokens"),
    "moderation": (body(moderation={"model": "x"}), "moderation"),
    "log probabilities": (body(top_logprobs=3), "top_logprobs"),
    "no JSON": (b"{", None),
}


@pytest.mark.parametrize("row", ITEMS)
def test_items(row):
    items, expected = ITEMS[row]
    assert chat(*items)["messages"] == expected


@pytest.mark.parametrize("row", FIELDS)
def test_fields(row):
    fields, expected = FIELDS[row]
    always = {"model": "m", "messages": [message("user", "Hi")], "stream": False}
    assert chat(**fields) == always | expected


def test_instructions_are_the_first_system_message():
    asked = chat(message("system", "b"), message("user", "c"), instructions="a")
    assert asked["messages"] == [message("system", "a"), message("system", "b"), message("user", "c")]


@pytest.mark.parametrize("row", BAD)
def test_bad_input_names_its_field(row):
    sent, param = BAD[row]
    with pytest.raises(ApiError) as caught:
        responses.to_chat(sent)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert json.loads(responses.error_body(caught.value))["error"]["param"] == param


def test_unknown_fields_are_counted():
    assert responses.to_chat(body(store=False, x=1)).unknown_fields == ("x",)
