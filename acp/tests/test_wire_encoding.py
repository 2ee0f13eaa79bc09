"""Request bodies: the same conversation encoded for each wire."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa_acp.provider.quirks import Quirks
from helexa_acp.provider.types import (
    CompletionRequest,
    ImagePart,
    Message,
    ReasoningPart,
    Role,
    TextPart,
    ToolCall,
    ToolSpec,
)
from helexa_acp.provider.wires.history import INTERRUPTED, normalise
from helexa_acp.provider.wires.registry import ADAPTERS

READ = ToolSpec("read", "Read a file.", {"type": "object", "properties": {}})
STATES = {
    "openai-chat": {"reasoning_details": [{"type": "reasoning.text", "text": "hm"}]},
    "openai-responses": {"type": "reasoning", "id": "rs", "encrypted_content": "x"},
    "anthropic-messages": {"type": "thinking", "thinking": "hm", "signature": "s"},
}


def talk(wire):
    return (
        Message.of(Role.SYSTEM, "Be brief."),
        Message(Role.USER, (TextPart("What is this?"), ImagePart("image/png", "AAAA"))),
        Message(
            Role.ASSISTANT,
            (ReasoningPart("hm", wire, "e:m", STATES[wire]), TextPart("Looking.")),
            (ToolCall("c1", "read", '{"path": "a"}'), ToolCall("c1", "read", "")),
        ),
        Message(Role.TOOL, (TextPart("one"),), tool_call_id="c1"),
        Message(
            Role.TOOL, (TextPart("two"), ImagePart("image/png", "BBBB")), tool_call_id="c1", is_error=True
        ),
    )


def body(wire, quirks=None, **more):
    request = CompletionRequest("m", talk(wire), (READ,), **more)
    return ADAPTERS[wire]().encode(request, quirks or Quirks(), "e:m").body


def second_id(wire_body):
    return wire_body["messages"][2]["tool_calls"][1]["id"]


def test_the_chat_body_is_pinned():
    sent = body("openai-chat", temperature=0.7, max_tokens=256, effort="low")
    other = second_id(sent)
    assert sent == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                ],
            },
            {
                "role": "assistant",
                "content": "Looking.",
                "tool_calls": [
                    {
                        "id": "c1",
                        "type": "function",
                        "function": {"name": "read", "arguments": '{"path": "a"}'},
                    },
                    {"id": other, "type": "function", "function": {"name": "read", "arguments": "{}"}},
                ],
                "reasoning_details": [{"type": "reasoning.text", "text": "hm"}],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "one"},
            {"role": "tool", "tool_call_id": other, "content": "two"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Images from the tool results above:"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,BBBB"}},
                ],
            },
        ],
        "tools": [
            {
                "type": "function",
                "function": {"name": "read", "description": "Read a file.", "parameters": READ.parameters},
            }
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 256,
        "temperature": 0.7,
        "reasoning_effort": "low",
    }
    assert other != "c1"


def test_text_only_request_has_no_tools_key_and_plain_content():
    request = CompletionRequest("m", (Message.of(Role.USER, "hi"),))
    sent = ADAPTERS["openai-chat"]().encode(request, Quirks(), "e:m").body
    assert sent == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_the_responses_body_is_pinned():
    sent = body("openai-responses", max_tokens=256, effort="high")
    other = sent["input"][4]["call_id"] if sent["input"][4]["type"] == "function_call" else None
    assert sent["instructions"] == "Be brief."
    assert [entry["type"] for entry in sent["input"]] == [
        "message",
        "reasoning",
        "message",
        "function_call",
        "function_call",
        "function_call_output",
        "function_call_output",
    ]
    assert sent["input"][1] == STATES["openai-responses"]
    assert sent["input"][3] == {
        "type": "function_call",
        "call_id": "c1",
        "name": "read",
        "arguments": '{"path": "a"}',
    }
    assert sent["input"][5] == {"type": "function_call_output", "call_id": "c1", "output": "one"}
    assert sent["input"][6]["call_id"] == other
    assert sent["input"][6]["output"][1] == {"type": "input_image", "image_url": "data:image/png;base64,BBBB"}
    assert sent["tools"][0]["name"] == "read"
    assert sent["store"] is False
    assert sent["include"] == ["reasoning.encrypted_content"]
    assert sent["max_output_tokens"] == 256
    assert sent["reasoning"] == {"effort": "high", "summary": "auto"}


def test_the_anthropic_body_is_pinned():
    sent = body("anthropic-messages", effort="low")
    assert sent["system"] == [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    assert [turn["role"] for turn in sent["messages"]] == ["user", "assistant", "user"]
    assert sent["messages"][0]["content"][1]["source"] == {
        "type": "base64",
        "media_type": "image/png",
        "data": "AAAA",
    }
    thinking, text, first, second = sent["messages"][1]["content"]
    assert thinking == STATES["anthropic-messages"]
    assert text == {"type": "text", "text": "Looking."}
    assert first == {"type": "tool_use", "id": "c1", "name": "read", "input": {"path": "a"}}
    results = sent["messages"][2]["content"]
    assert [block["tool_use_id"] for block in results] == ["c1", second["id"]]
    assert results[1]["is_error"] is True
    assert results[1]["content"][1]["type"] == "image"
    assert sent["thinking"] == {"type": "enabled", "budget_tokens": 2048}
    assert sent["max_tokens"] == 16384


def test_anthropic_does_not_think_in_a_loop_that_began_elsewhere():
    messages = (Message.of(Role.USER, "hi"), *talk("openai-chat")[2:])
    request = CompletionRequest("m", messages, (READ,), effort="low")
    sent = ADAPTERS["anthropic-messages"]().encode(request, Quirks(), "e:m").body
    assert "thinking" not in sent
    assert sent["max_tokens"] == 8192


@pytest.mark.parametrize("wire", ADAPTERS)
@pytest.mark.parametrize("origin", ADAPTERS)
def test_thoughts_of_other_wires_and_models_are_left_out(wire, origin):
    request = CompletionRequest("m", talk(origin), (READ,))
    for tag in ("e:m", "e:other"):
        if (wire, "e:m") == (origin, tag):
            continue
        sent = repr(ADAPTERS[wire]().encode(request, Quirks(), tag).body)
        assert "hm" not in sent
        assert "encrypted" not in sent.replace("reasoning.encrypted_content", "")


@pytest.mark.parametrize(
    ("quirks", "gone", "there"),
    [
        ({"stream_options": False}, "stream_options", None),
        ({"max_tokens_field": "max_completion_tokens"}, "max_tokens", "max_completion_tokens"),
        ({"sampling": False}, "temperature", None),
        ({"tools": False}, "tools", None),
        ({"effort": False}, "reasoning_effort", None),
    ],
)
def test_quirks_change_the_chat_body(quirks, gone, there):
    sent = body("openai-chat", Quirks(**quirks), temperature=1, max_tokens=5, effort="low")
    assert gone not in sent
    assert there is None or there in sent


def test_reasoning_is_sent_back_where_required():
    sent = body("openai-chat", Quirks(reasoning_roundtrip=True))
    assert sent["messages"][2]["reasoning_content"] == "hm"


def test_short_ids_are_given_to_calls_and_results():
    sent = body("openai-chat", Quirks(short_tool_ids=True))
    ids = [call["id"] for call in sent["messages"][2]["tool_calls"]]
    assert all(len(id_) == 9 and id_.isalnum() for id_ in ids)
    assert [m["tool_call_id"] for m in sent["messages"] if m["role"] == "tool"] == ids


def test_text_tools_describe_and_replay_calls_as_text():
    sent = body("openai-chat", Quirks(text_tools=True))
    assert "tools" not in sent
    assert '"name": "read"' in sent["messages"][0]["content"]
    assert (
        '<tool_call>\n{"name": "read", "arguments": {"path": "a"}}\n</tool_call>'
        in sent["messages"][2]["content"]
    )
    assert sent["messages"][3]["role"] == "user"


def test_images_become_a_note_for_models_that_do_not_see():
    sent = body("openai-chat", Quirks(images=False))
    assert "image_url" not in repr(sent)
    assert "does not read images" in repr(sent)


@pytest.mark.parametrize("wire", ADAPTERS)
def test_malformed_arguments_can_be_sent_back(wire):
    messages = (
        Message.of(Role.USER, "x"),
        Message(Role.ASSISTANT, (), (ToolCall("c1", "read", '{"broken'),)),
        Message(Role.TOOL, (TextPart("ERROR"),), tool_call_id="c1"),
    )
    assert "broken" in repr(ADAPTERS[wire]().encode(CompletionRequest("m", messages), Quirks(), "e:m").body)


ids = st.sampled_from(["a", "b", "call_1", "bad id!", ""])
messages = st.lists(
    st.one_of(
        st.builds(lambda t: Message.of(Role.USER, t), st.sampled_from(["", "hi"])),
        st.builds(
            lambda t, c: Message(Role.ASSISTANT, (TextPart(t),), tuple(ToolCall(i, "read") for i in c)),
            st.sampled_from(["", "ok"]),
            st.lists(ids, max_size=3),
        ),
        st.builds(lambda i: Message(Role.TOOL, (TextPart("r"),), tool_call_id=i), ids),
        st.just(Message.of(Role.SYSTEM, "s")),
    ),
    max_size=12,
)


@given(messages, st.booleans())
def test_any_history_becomes_one_that_servers_accept(history, short):
    normal = normalise(history, Quirks(short_tool_ids=short))
    open_ids: list[str] = []
    seen: set[str] = set()
    for place, message in enumerate(normal):
        assert (message.role is Role.SYSTEM) <= (place == 0)
        if message.role is Role.TOOL:
            assert message.tool_call_id == open_ids.pop(0)
            continue
        assert not open_ids
        assert message.calls or message.text
        open_ids = [call.id for call in message.calls]
        assert not seen & set(open_ids)
        seen |= set(open_ids)
        if place and message.role is Role.USER:
            assert normal[place - 1].role is not Role.USER
    assert not open_ids


def test_a_call_without_a_result_gets_one():
    history = [Message(Role.ASSISTANT, (), (ToolCall("a", "read"),)), Message.of(Role.USER, "go on")]
    assert normalise(history, Quirks())[1] == replace(
        Message.of(Role.TOOL, INTERRUPTED), tool_call_id="a", is_error=True
    )
