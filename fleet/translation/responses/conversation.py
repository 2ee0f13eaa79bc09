"""Items of the Responses API as chat messages.

instructions              the first system message
message                   a message of the same role; a lone text becomes a string, parts stay parts
reasoning, message of     one assistant message, up to the first item that is none of them: its
the assistant, calls      `reasoning_content`, its content, its `tool_calls`
function_call_output      a `tool` message right after the message that called
custom_tool_call          a call whose arguments are `{"input": …}`
encrypted reasoning       an entry of `reasoning_details`, for the upstream that made it
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from fleet.translation.responses.tools import chat_name, wrap_input
from fleet.translation.responses.wire import (
    ITEMS,
    KINDS,
    MESSAGES,
    Compaction,
    CustomToolCall,
    CustomToolCallOutput,
    FunctionCall,
    FunctionCallOutput,
    InputImage,
    Item,
    ItemReference,
    Message,
    Part,
    Reasoning,
    Refusal,
)
from fleet.translation.turns import in_chat_order
from fleet.translation.validation import decode_body, reject

Json = dict[str, Any]


def chat_messages(
    instructions: str | None, earlier: Sequence[msgspec.Raw], given: Sequence[msgspec.Raw]
) -> list[Json]:
    """The messages of the `earlier` and the `given` items.

    Raises `ApiError` 400 with the place of the given item and its field.
    """
    messages: list[Json] = [{"role": "system", "content": instructions}] if instructions else []
    calls: set[str] = set()
    for number, raw in enumerate((*earlier, *given), start=-len(earlier)):
        path = f"input[{number}]"
        match read_item(raw, path):
            case Reasoning() as item:
                messages += _reasoning(item)
            case FunctionCall() | CustomToolCall() as item:
                calls.add(item.call_id)
                messages.append({"role": "assistant", "content": None, "tool_calls": [_call(item)]})
            case Message(role=role, content=content):
                messages.append({"role": role, "content": _content(content)})
            case FunctionCallOutput() | CustomToolCallOutput() as item:
                messages.append(_output(item, path, calls))
            case ItemReference():
                reject(f"{path}.id", "Items are looked up in `input` alone, by the type 'item_reference'.")
            case Compaction():
                reject(f"{path}.encrypted_content", "This gateway did not make it; leave the item out.")
    return in_chat_order(messages)


def read_item(raw: msgspec.Raw, path: str) -> Item:
    """Return an item. Raises `ApiError` 400 with its place and field."""
    body = bytes(raw)
    kind = decode_body(KINDS, body, at=path)
    if kind.type is None and kind.is_reference and kind.id:
        return ItemReference(kind.id)
    if kind.type is None:
        message = decode_body(MESSAGES, body, at=path)
        return Message(message.role, message.content)
    return decode_body(ITEMS, body, at=path)


def _reasoning(item: Reasoning) -> list[Json]:
    """The assistant's message of a thought; none where nothing of it was kept."""
    text = "".join(part.text for part in item.content or item.summary or ())
    fields: Json = {"reasoning_content": text} if text else {}
    if item.encrypted_content:
        detail = (
            {"type": "reasoning.text", "text": text, "signature": item.encrypted_content}
            if text
            else {"type": "reasoning.encrypted", "data": item.encrypted_content}
        )
        fields["reasoning_details"] = [detail]
    return [{"role": "assistant", "content": ""} | fields] if fields else []


def _call(item: FunctionCall | CustomToolCall) -> Json:
    arguments = item.arguments if isinstance(item, FunctionCall) else wrap_input(item.input)
    function = {"name": chat_name(item.name, item.namespace), "arguments": arguments}
    return {"id": item.call_id, "type": "function", "function": function}


def _output(item: FunctionCallOutput | CustomToolCallOutput, path: str, calls: set[str]) -> Json:
    if item.call_id not in calls:
        reject(f"{path}.call_id", f"No call before this item has the call_id {item.call_id!r}.")
    return {"role": "tool", "tool_call_id": item.call_id, "content": _content(item.output)}


def _content(content: str | Sequence[Part]) -> str | list[Json]:
    if isinstance(content, str):
        return content
    parts = [_part(part) for part in content]
    match parts:
        case []:
            return ""
        case [{"type": "text", "text": str(text)}]:
            return text
        case _:
            return parts


def _part(part: Part) -> Json:
    match part:
        case InputImage(image_url=url, detail=detail):
            return {"type": "image_url", "image_url": {"url": url} | ({"detail": detail} if detail else {})}
        case Refusal(refusal=text):
            return {"type": "text", "text": text}
        case _:
            return {"type": "text", "text": part.text}
