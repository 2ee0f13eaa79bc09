"""A Responses request as a chat request: everything except the items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from fleet.translation.responses.conversation import chat_messages
from fleet.translation.responses.tools import Origin, tooling
from fleet.translation.responses.wire import (
    TOLERATED,
    Format,
    ReasoningConfig,
    ResponsesBody,
    Tool,
)
from fleet.translation.validation import decode_body, is_given, reject, require_object, unknown_fields

Json = dict[str, Any]

_bodies = msgspec.json.Decoder(ResponsesBody)

_KNOWN = frozenset(ResponsesBody.__struct_fields__) | TOLERATED


class ResponsesCall(msgspec.Struct, frozen=True):
    """A request in the upstream's dialect, with the facts that the gateway and the answer need."""

    body: bytes
    model: str
    stream: bool
    max_tokens: int | None
    echo: Json
    tools: dict[str, Origin]  # by their names in chat
    unknown_fields: tuple[str, ...] = ()
    store: bool = True
    earlier: Sequence[msgspec.Raw] = ()  # items of the conversation that the request continues
    input: Sequence[msgspec.Raw] = ()  # items of the request


def to_chat(body: bytes, earlier: Sequence[msgspec.Raw] = ()) -> ResponsesCall:
    """The equivalent chat request, `earlier` items first. Raises `ApiError` 400 with the field's name."""
    asked = decode_body(_bodies, body)
    _refuse(asked)
    given = _items(asked.input)
    chat: Json = {
        "model": asked.model,
        "messages": chat_messages(asked.instructions, earlier, given),
        "stream": bool(asked.stream),
    }
    if not chat["messages"]:
        reject("input", "There is nothing to answer.")
    if asked.stream:
        chat["stream_options"] = {"include_usage": True}
    tools, origins = tooling(asked.tools or (), asked.tool_choice, asked.parallel_tool_calls)
    chat |= _sampling(asked) | tools | _reasoning(asked.reasoning)
    if asked.text and asked.text.format:
        chat |= _format(asked.text.format)
    if asked.text and asked.text.verbosity:
        chat["verbosity"] = asked.text.verbosity
    limit, unknown = asked.max_output_tokens, unknown_fields(body, _KNOWN)
    encoded = msgspec.json.encode(chat)
    return ResponsesCall(
        body=encoded,
        model=asked.model,
        stream=bool(asked.stream),
        max_tokens=limit,
        echo=_echo(asked),
        tools=origins,
        unknown_fields=unknown,
        store=asked.store is not False,
        earlier=earlier,
        input=given,
    )


def _items(given: str | list[msgspec.Raw] | None) -> list[msgspec.Raw]:
    if isinstance(given, list):
        return given
    return [msgspec.Raw(msgspec.json.encode({"role": "user", "content": given}))] if given else []


_REFUSED = {
    "background": "Nothing runs in the background here; ask for a stream, and read it to its end.",
    "conversation": "Conversations are not kept here; continue a response by `previous_response_id`.",
    "moderation": "Nothing is moderated here; leave this out, and check input and output yourself.",
    "prompt": "Prompts are not kept here; send their text as `instructions` or `input`.",
}


def _refuse(asked: ResponsesBody) -> None:
    for name, reason in _REFUSED.items():
        if getattr(asked, name):
            reject(name, reason)
    if asked.top_logprobs:
        reject("top_logprobs", "Log probabilities are not available here; /v1/chat/completions has them.")


def _sampling(asked: ResponsesBody) -> Json:
    fields = {
        "max_tokens": asked.max_output_tokens,
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "user": asked.user,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _reasoning(config: ReasoningConfig | None) -> Json:
    if config is None or config.effort is None:
        return {}
    if config.effort == "none":
        return {"chat_template_kwargs": {"enable_thinking": False}}
    return {"reasoning_effort": config.effort}


def _format(asked: Format) -> Json:
    if asked.type != "json_schema":
        return {} if asked.type == "text" else {"response_format": {"type": asked.type}}
    if not is_given(asked.schema):
        reject("text.format.schema", "This field is required.")
    schema: Json = {
        "name": asked.name or "output",
        "schema": require_object(asked.schema, "text.format.schema"),
    }
    more = {"strict": asked.strict, "description": asked.description}
    schema |= {name: value for name, value in more.items() if value is not None}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def _echo(asked: ResponsesBody) -> Json:
    reasoning = asked.reasoning or ReasoningConfig()
    text = asked.text.format if asked.text and asked.text.format else Format("text")
    return {
        "background": False,
        "instructions": asked.instructions,
        "max_output_tokens": asked.max_output_tokens,
        "metadata": asked.metadata or {},
        "model": asked.model,
        "parallel_tool_calls": asked.parallel_tool_calls is not False,
        "previous_response_id": asked.previous_response_id,
        "reasoning": {"effort": reasoning.effort, "summary": None},
        "store": asked.store is not False,
        "temperature": asked.temperature,
        "text": {"format": _given(text)},
        "tool_choice": _given(asked.tool_choice) if asked.tool_choice else "auto",
        "tools": [_echoed(tool) for tool in asked.tools or ()],
        "top_p": asked.top_p,
        "truncation": "disabled",
        "user": asked.user,
    }


def _echoed(tool: Tool) -> Json:
    fields: Json = {"parameters": None, "strict": None} if tool.type == "function" else {}
    fields |= _given(tool)
    return fields | {"tools": [_echoed(inner) for inner in tool.tools]} if tool.tools else fields


def _given(value: Any) -> Any:
    """A struct as an object with only the fields that the client sent."""
    if not isinstance(value, msgspec.Struct):
        return value
    fields = ((name, getattr(value, name)) for name in value.__struct_fields__)
    return {name: _given(field) for name, field in fields if not _is_absent(field)}


def _is_absent(field: Any) -> bool:
    return field is None or (isinstance(field, msgspec.Raw) and not is_given(field))
