"""Items of the Responses API as chat messages.

instructions              the first system message
message                   a message of the same role; a lone text becomes a string, parts stay parts
reasoning, message of     one assistant message, as long as they follow each other in this order: its
the assistant, calls      `reasoning_content`, its content, its `tool_calls`
function_call_output      a `tool` message
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
    CustomToolCall,
    CustomToolCallOutput,
    FunctionCall,
    FunctionCallOutput,
    InputImage,
    Item,
    Message,
    Part,
    Reasoning,
    Refusal,
)
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
    turn: Json = {}  # the assistant's message under construction
    for number, raw in enumerate((*earlier, *given), start=-len(earlier)):
        item = _item(raw, f"input[{number}]")
        if not _continues(turn, item):
            messages += _finished(turn)
            turn = {}
        match item:
            case Reasoning():
                _add_reasoning(turn, item)
            case FunctionCall() | CustomToolCall():
                calls.add(item.call_id)
                turn.setdefault("tool_calls", []).append(_call(item))
            case Message(role="assistant"):
                turn["content"] = _content(item.content)
            case Message(role=role, content=content):
                messages.append({"role": role, "content": _content(content)})
            case FunctionCallOutput() | CustomToolCallOutput():
                messages.append(_output(item, f"input[{number}]", calls))
    return messages + _finished(turn)


def _item(raw: msgspec.Raw, path: str) -> Item:
    body = bytes(raw)
    if decode_body(KINDS, body, at=path).type is None:
        message = decode_body(MESSAGES, body, at=path)
        return Message(message.role, message.content)
    return decode_body(ITEMS, body, at=path)


def _continues(turn: Json, item: Item) -> bool:
    """Whether an item belongs to the assistant's message before it; the order is reasoning, text, calls."""
    match item:
        case Reasoning():
            return turn.keys() <= {"reasoning_content", "reasoning_details"}
        case Message(role="assistant"):
            return not turn.keys() & {"content", "tool_calls"}
        case FunctionCall() | CustomToolCall():
            return True
        case _:
            return False


def _finished(turn: Json) -> list[Json]:
    if not turn:
        return []
    content = turn.get("content", None if "tool_calls" in turn else "")
    return [{"role": "assistant", "content": content} | turn]


def _add_reasoning(turn: Json, item: Reasoning) -> None:
    text = "".join(part.text for part in item.content or item.summary or ())
    if text:
        earlier = turn.get("reasoning_content")
        turn["reasoning_content"] = f"{earlier}\n{text}" if earlier else text
    if item.encrypted_content:
        detail = (
            {"type": "reasoning.text", "text": text, "signature": item.encrypted_content}
            if text
            else {"type": "reasoning.encrypted", "data": item.encrypted_content}
        )
        turn.setdefault("reasoning_details", []).append(detail)


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
