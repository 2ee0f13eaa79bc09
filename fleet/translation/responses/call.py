"""A Responses request as a chat request: everything except the items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from cortex_site.base.unread import UnreadFields
from fleet.translation.responses.conversation import chat_messages
from fleet.translation.responses.tools import Origin, tooling
from fleet.translation.responses.wire import (
    TOLERATED,
    TOLERATED_WITHIN,
    Format,
    Item,
    ReasoningConfig,
    ResponsesBody,
    Tool,
    UntypedMessage,
)
from fleet.translation.validation import decode_body, is_given, reject, require_object

Json = dict[str, Any]

_bodies = msgspec.json.Decoder(ResponsesBody)

_UNREAD = UnreadFields(
    ResponsesBody,
    TOLERATED | TOLERATED_WITHIN,
    {(ResponsesBody, "input"): list[Item | UntypedMessage]},  # which are decoded one by one
)


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
    seals: bool = False  # thoughts are also given so that only the gateway reads them
    summarizes: bool = False  # thoughts are given as their own summary
    conversation: str | None = None  # that the answer is added to
    earlier: Sequence[msgspec.Raw] = ()  # items of the conversation that the request continues
    input: Sequence[msgspec.Raw] = ()  # items of the request


def to_chat(
    body: bytes, earlier: Sequence[msgspec.Raw] = (), conversation: str | None = None
) -> ResponsesCall:
    """The equivalent chat request, `earlier` items first. Raises `ApiError` 400 with the field's name.

    `conversation` is the id of the one that the items are of, and that the answer is added to.
    """
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
    limit, unknown = asked.max_output_tokens, _UNREAD.of(body)
    encoded = msgspec.json.encode(chat)
    return ResponsesCall(
        body=encoded,
        model=asked.model,
        stream=bool(asked.stream),
        max_tokens=limit,
        echo=_echo(asked, conversation),
        tools=origins,
        unknown_fields=unknown,
        store=asked.store is not False,
        seals="reasoning.encrypted_content" in (asked.include or ()),
        summarizes=bool(asked.reasoning and asked.reasoning.summary),
        conversation=conversation,
        earlier=earlier,
        input=given,
    )


_SUMMARIZE = (
    "Write a summary of this conversation that you could go on from without it: what was asked, what was "
    "found and decided, names, paths and values that still matter, and what is left to do. Nothing else."
)


def to_compact(body: bytes, earlier: Sequence[msgspec.Raw] = ()) -> ResponsesCall:
    """The chat request for a summary of a conversation. Raises `ApiError` 400 with the field's name."""
    call = to_chat(body, earlier)
    chat: Json = msgspec.json.decode(call.body)
    kept = {name: chat[name] for name in ("model", "messages", "max_tokens", "user") if name in chat}
    kept["messages"].append({"role": "user", "content": _SUMMARIZE})
    return msgspec.structs.replace(call, body=msgspec.json.encode(kept), stream=False)


def _items(given: str | list[msgspec.Raw] | None) -> list[msgspec.Raw]:
    if isinstance(given, list):
        return given
    return [msgspec.Raw(msgspec.json.encode({"role": "user", "content": given}))] if given else []


_REFUSED = {
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


def _echo(asked: ResponsesBody, conversation: str | None) -> Json:
    reasoning = asked.reasoning or ReasoningConfig()
    text = asked.text.format if asked.text and asked.text.format else Format("text")
    more = {"conversation": {"id": conversation}} if conversation else {}
    return more | {
        "background": bool(asked.background),
        "instructions": asked.instructions,
        "max_output_tokens": asked.max_output_tokens,
        "metadata": asked.metadata or {},
        "model": asked.model,
        "parallel_tool_calls": asked.parallel_tool_calls is not False,
        "previous_response_id": asked.previous_response_id,
        "reasoning": {"effort": reasoning.effort, "summary": reasoning.summary},
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
