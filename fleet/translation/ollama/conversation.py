"""An Ollama conversation as chat messages.

images        data URLs in the message's content; Ollama's clients send base64 without a media type
thinking      `reasoning_content`
tool_calls    the same; arguments, which are objects, as JSON text, and an id where the client sends none
tool results  a `tool` message of the call with that `tool_call_id`; where the client sends none, or sent
              none with its calls, of the oldest call without a result that has the name in `tool_name`, or
              any name without one
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fleet.translation.ollama.wire import Message, PastCall
from fleet.translation.turns import in_chat_order
from fleet.translation.validation import reject, require_object

Json = dict[str, Any]

# The first characters of an image in base64, and its media type.
_MEDIA_TYPES = {"iVBORw0KGgo": "png", "/9j/": "jpeg", "R0lGOD": "gif", "UklGR": "webp"}
_IMAGE_RULE = "Expected a PNG, JPEG, GIF or WebP image in base64, without `data:` before it."


def chat_messages(turns: Sequence[Message]) -> list[Json]:
    """The messages of a conversation. Raises `ApiError` 400 where a result answers no call."""
    messages: list[Json] = []
    waiting: dict[str, PastCall] = {}  # calls without a result, by their ids
    for number, turn in enumerate(turns):
        path = f"messages[{number}]"
        if turn.role == "tool":
            ident = _answered(turn, waiting, path)
            messages.append({"role": "tool", "tool_call_id": ident, "content": turn.content or ""})
            continue
        message: Json = {"role": turn.role, "content": content_of(turn.content or "", turn.images, path)}
        if turn.role == "assistant":
            message |= _said(turn, number, path, waiting)
        messages.append(message)
    return in_chat_order(messages)


def content_of(text: str, images: Sequence[str] | None, path: str) -> str | list[Json]:
    """Chat content: a string, or parts where there are images. `path` is the message's, "" for none."""
    if not images:
        return text
    parts: list[Json] = [{"type": "text", "text": text}] if text else []
    place = f"{path}.images" if path else "images"
    return parts + [_image(image, f"{place}[{number}]") for number, image in enumerate(images)]


def _image(data: str, param: str) -> Json:
    kind = next((kind for start, kind in _MEDIA_TYPES.items() if data.startswith(start)), None)
    if kind is None:
        reject(param, _IMAGE_RULE)
    return {"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{data}"}}


def _said(turn: Message, number: int, path: str, waiting: dict[str, PastCall]) -> Json:
    """What only the assistant's messages have. Its calls wait for their results from now on."""
    fields: Json = {"reasoning_content": turn.thinking} if turn.thinking else {}
    calls: list[Json] = []
    for place, call in enumerate(turn.tool_calls or ()):
        ident = call.id or f"call_{number}_{place}"
        waiting[ident] = call
        calls.append(_call(call, ident, f"{path}.tool_calls[{place}]"))
    return fields | {"tool_calls": calls} if calls else fields


def _call(call: PastCall, ident: str, path: str) -> Json:
    arguments = require_object(call.function.arguments, f"{path}.function.arguments")
    function = {"name": call.function.name, "arguments": bytes(arguments).decode()}
    return {"id": ident, "type": "function", "function": function}


def _answered(turn: Message, waiting: dict[str, PastCall], path: str) -> str:
    """The id of the call that a result answers, which waits no more."""
    ident, name = turn.tool_call_id, turn.tool_name
    if not ident:
        field, what = (".tool_name", f"No call of {name!r}") if name else ("", "No call")
        found = [call for call in waiting if _is_of(waiting[call], name)]
    else:
        field, what = ".tool_call_id", f"No call {ident!r}"
        nameless = [call for call in waiting if not waiting[call].id and _is_of(waiting[call], name)]
        found = [ident] if ident in waiting else nameless
    if not found:
        reject(path + field, f"{what} waits for a result here.")
    del waiting[found[0]]
    return found[0]


def _is_of(call: PastCall, name: str | None) -> bool:
    return not name or call.function.name == name
