"""Every field of the official SDKs' request types is read, refused by name, or in the documents' tables."""

from __future__ import annotations

import json
import re
from typing import Literal, Required

import pytest
from anthropic.types import TextBlockParam
from anthropic.types import message_create_params as of_messages
from anthropic.types.beta import message_create_params as of_beta
from openai.types.chat import completion_create_params as of_chat
from openai.types.responses import response_create_params as of_responses
from typing_extensions import TypedDict

from fleet.translation import messages, responses
from fleet.translation.messages import wire as messages_wire
from fleet.translation.messages.wire import MessagesBody
from fleet.translation.responses import wire as responses_wire
from fleet.translation.responses.wire import ResponsesBody
from neuron.api.bodies.chat import TOLERATED, ChatBody
from neuron.wire import ApiError
from tests.translation.losses import DOCUMENT
from tests.translation.sdk_fields import Walk

MESSAGES = Walk(
    MessagesBody,
    of_messages.MessageCreateParamsStreaming,
    of_beta.MessageCreateParamsStreaming,
)
RESPONSES = Walk(ResponsesBody, of_responses.ResponseCreateParamsStreaming)
CHAT = Walk(ChatBody, of_chat.CompletionCreateParamsStreaming)
WALKS = {"Messages": MESSAGES, "Responses": RESPONSES, "chat": CHAT}
OTHERS = {"client_metadata"}  # Codex sends it, and no SDK has it
HEADERS = {"betas", "user_profile_id", "workspace_id"}


def listed(dialect):
    """The fields in the first column of the dialect's table."""
    _, _, rest = DOCUMENT.read_text().partition(f"### In {dialect} requests")
    table, _, _ = rest.partition("##")
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("|")]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


@pytest.mark.parametrize("dialect", WALKS)
def test_every_field_is_served_refused_or_listed(dialect):
    unread, known = WALKS[dialect].unread, listed(dialect)
    assert sorted(unread - known) == [], "new fields of the SDK: serve, refuse or list them"
    assert sorted(known - unread) == [], "listed, and the SDK has no such field, or it is served"


def test_what_is_listed_is_not_counted_as_unknown():
    assert MESSAGES.unread - HEADERS == messages_wire.TOLERATED | messages_wire.TOLERATED_WITHIN
    assert RESPONSES.unread == responses_wire.TOLERATED - OTHERS | responses_wire.TOLERATED_WITHIN
    assert CHAT.unread == {f"messages.{name}" for name in TOLERATED} - {"messages.annotations"}


@pytest.mark.parametrize(("field", "kind"), sorted(MESSAGES.refused))
def test_a_type_of_messages_that_is_not_served_is_refused_by_name(field, kind):
    thing = {"type": kind}
    fields = {
        "tools": {"tools": [thing | {"name": "x"}]},
        "user.content": {"messages": [{"role": "user", "content": [thing]}]},
        "assistant.content": {"messages": [{"role": "assistant", "content": [thing]}]},
        "system.content": {"messages": [{"role": "system", "content": [thing]}]},
        "image.source": of_block({"type": "image", "source": thing}),
        "document.source": of_block({"type": "document", "source": thing}),
        "tool_result.content": of_block({"type": "tool_result", "tool_use_id": "x", "content": [thing]}),
    }[field]
    refused(
        messages.to_chat, {"max_tokens": 1, "messages": [{"role": "user", "content": "a"}]} | fields, kind
    )


def of_block(block):
    return {"messages": [{"role": "user", "content": [block]}]}


@pytest.mark.parametrize(("field", "kind"), sorted(RESPONSES.refused))
def test_a_type_of_responses_that_is_not_served_is_refused_by_name(field, kind):
    thing = {"type": kind}
    fields = {
        "tools": {"tools": [thing]},
        "tools.tools": {"tools": [{"type": "namespace", "name": "n", "tools": [thing]}]},
        "tool_choice": {"tools": [{"type": "function", "name": "x"}], "tool_choice": thing},
        "input": {"input": [thing]},
        "message.content": {"input": [{"role": "user", "content": [thing]}]},
        "function_call_output.output": of_output("function_call_output", thing),
        "custom_tool_call_output.output": of_output("custom_tool_call_output", thing),
    }[field]
    refused(responses.to_chat, {"input": "a"} | fields, kind)


def of_output(kind, part):
    return {"input": [{"type": kind, "call_id": "x", "output": [part]}]}


def refused(translate, fields, kind):
    with pytest.raises(ApiError) as caught:
        translate(json.dumps({"model": "m"} | fields).encode())
    assert caught.value.status == 400
    assert repr(kind) in caught.value.message
    assert caught.value.param.endswith(".type")


class NewText(TextBlockParam, total=False):
    colour: str


class NewBlock(TypedDict):
    type: Required[Literal["smell"]]


class NewTurn(TypedDict):
    role: Literal["user"]
    content: list[NewText | NewBlock]


class NewRequest(of_messages.MessageCreateParamsStreaming, total=False):
    messages: list[NewTurn]
    moonphase: str


def test_a_new_version_s_fields_are_named():
    walk = Walk(MessagesBody, NewRequest)
    assert walk.unread - MESSAGES.unread == {"moonphase", "text.colour"}
    assert walk.refused - MESSAGES.refused == {("user.content", "smell")}
