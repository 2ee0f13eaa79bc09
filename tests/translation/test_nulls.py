"""A null is a field's default, in every dialect: generated clients send all that they know."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.gateway.dialects.chat import CHAT
from fleet.translation import messages, responses
from neuron.wire import ApiError
from tests.stubs.nulls import optional_places, with_nulls, without
from tests.translation.bodies import PNG

SCHEMA = {"type": "object"}
MESSAGES = {
    "model": "m", "max_tokens": 9, "stream": True, "temperature": 1, "top_p": 0.5, "top_k": 3,
    "stop_sequences": ["x"], "metadata": {"user_id": "u"}, "system": [{"type": "text", "text": "s"}],
    "tools": [{"type": "custom", "name": "f", "description": "d", "input_schema": SCHEMA, "strict": True}],
    "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}, "thinking": {"type": "enabled"},
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}},
    "mcp_servers": [], "service_tier": "auto",
    "messages": [
        {"role": "user", "content": [
            {"type": "image", "source": PNG},
            {"type": "document", "title": "t", "context": "c", "source": {"type": "text", "data": "d"}},
            {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}},
        ]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "t", "signature": "s"},
            {"type": "tool_use", "id": "t1", "name": "f", "input": {}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t1", "content": "x", "is_error": False},
        ]},
    ],
}  # fmt: skip
FUNCTION = {"type": "function", "name": "f", "description": "d", "parameters": SCHEMA, "strict": True}
CUSTOM = {"type": "custom", "name": "g", "format": {"type": "grammar", "syntax": "lark", "definition": "x"}}
RESPONSES = {
    "model": "m", "instructions": "s", "stream": True, "max_output_tokens": 9, "temperature": 1, "top_p": 0.5,
    "tools": [FUNCTION, CUSTOM], "tool_choice": "auto", "parallel_tool_calls": True,
    "text": {"verbosity": "low", "format": {
        "type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True, "description": "d",
    }},
    "reasoning": {"effort": "low", "summary": "auto"}, "top_logprobs": 0, "metadata": {"a": "b"}, "user": "u",
    "background": False, "store": True, "truncation": "disabled", "include": [], "service_tier": "auto",
    "input": [
        {"type": "message", "role": "user", "content": [
            {"type": "input_text", "text": "x"}, {"type": "input_image", "image_url": "u", "detail": "low"},
        ]},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "r"}],
         "encrypted_content": "e"},
        {"type": "function_call", "id": "i", "call_id": "c1", "name": "f", "arguments": "{}", "status": "s"},
        {"type": "function_call_output", "call_id": "c1", "output": "ok"},
    ],
}  # fmt: skip
CHAT_BODY = {"model": "m", "messages": [], "stream": True, "stream_options": {"include_usage": True}}
BODIES = {"messages": MESSAGES, "responses": RESPONSES, "chat": CHAT_BODY}
# elsewhere a type says what the object is
OPTIONAL_TYPES = {("tools", 0, "type"), ("input", 0, "type"), ("tools", 1, "format", "type")}
FREE = {"input_schema", "schema", "parameters", "metadata"}


def asked(dialect: str, body: object) -> tuple[object, ...]:
    """What the gateway makes of a body. Raises `ApiError`."""
    sent = json.dumps(body).encode()
    if dialect == "messages":
        call = messages.to_chat(sent)
        return json.loads(call.body), call.stream, call.max_tokens
    if dialect == "responses":
        answer = responses.to_chat(sent)
        return json.loads(answer.body), json.loads(msgspec.json.encode(answer.echo)), answer.store
    head = CHAT.decode(sent)
    return head.model, head.stream, head.hide_usage


def is_accepted(dialect: str, body: object) -> bool:
    try:
        asked(dialect, body)
    except ApiError:
        return False
    return True


PLACES = {
    dialect: [
        place
        for place in optional_places(
            body, lambda changed, dialect=dialect: is_accepted(dialect, changed), free=FREE
        )
        if place[-1] != "type" or place in OPTIONAL_TYPES
    ]
    for dialect, body in BODIES.items()
}


@pytest.mark.parametrize("dialect", BODIES)
@given(data=st.data())
def test_null_is_the_default_of_every_optional_field(dialect, data):
    body = BODIES[dialect]
    places = data.draw(st.lists(st.sampled_from(PLACES[dialect]), max_size=4))
    shortened = without(body, places)
    if is_accepted(dialect, shortened):  # one may need another
        assert asked(dialect, with_nulls(body, places)) == asked(dialect, shortened)
