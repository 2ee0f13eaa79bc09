"""Normalisation of a history, so that every wire accepts it whichever endpoints wrote it.

`normalise` is applied to the messages of each request, never to the log. The same prefix always gives the
same output, so that a server's prompt cache keeps working.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import replace

from helexa_acp.provider.quirks import Quirks
from helexa_acp.provider.types import ImagePart, Message, Part, ReasoningPart, Role, TextPart, ToolCall

INTERRUPTED = "ERROR: the call was interrupted before it had a result"
NO_IMAGE = "[an image was here; this model does not read images]"

_VALID_ID = re.compile(r"[A-Za-z0-9_-]{1,40}")


def normalise(messages: Iterable[Message], quirks: Quirks) -> list[Message]:
    """Return an equivalent history that every wire accepts.

    It begins with at most one system message. Each call is followed by exactly one result; ids of calls are
    valid and unique; no message is empty; and neighbours of one role are joined, except for tool results and
    messages with calls.
    """
    messages = list(messages)
    system = [m for m in messages if m.role is Role.SYSTEM and m.text]
    turns = _pair([m for m in messages if m.role is not Role.SYSTEM])
    turns = _unique_ids(turns, short=quirks.short_tool_ids)
    turns = _without_empty(turns, images=quirks.images)
    return [*_joined(system), *_merge_neighbours(turns)]


def _joined(system: list[Message]) -> list[Message]:
    return [Message.of(Role.SYSTEM, "\n\n".join(m.text for m in system))] if system else []


def _pair(messages: list[Message]) -> list[Message]:
    """Put each result after its call. A missing result is made up, a stray one dropped."""
    paired: list[Message] = []
    for position, message in enumerate(messages):
        if message.role is Role.TOOL:
            continue
        paired.append(message)
        if not message.calls:
            continue
        results = _results_after(messages, position)
        for call in message.calls:
            waiting = results.get(call.id, [])
            paired.append(waiting.pop(0) if waiting else _interrupted(call))
    return paired


def _results_after(messages: list[Message], position: int) -> dict[str, list[Message]]:
    results: dict[str, list[Message]] = {}
    for message in messages[position + 1 :]:
        if message.role is not Role.TOOL:
            break
        results.setdefault(message.tool_call_id, []).append(message)
    return results


def _interrupted(call: ToolCall) -> Message:
    return Message(Role.TOOL, (TextPart(INTERRUPTED),), tool_call_id=call.id, is_error=True)


def _unique_ids(messages: list[Message], *, short: bool) -> list[Message]:
    """Rename calls whose id is invalid or repeats: models repeat ids, and servers refuse to see one twice."""
    seen: set[str] = set()
    renamed: list[Message] = []
    pending: list[str] = []
    for message in messages:
        if message.role is Role.TOOL:
            renamed.append(replace(message, tool_call_id=pending.pop(0)))
            continue
        calls = []
        for call in message.calls:
            new = _fresh_id(call.id, len(seen), seen, short=short)
            seen.add(new)
            calls.append(replace(call, id=new))
        pending = [call.id for call in calls]
        renamed.append(replace(message, calls=tuple(calls)))
    return renamed


def _fresh_id(old: str, place: int, seen: set[str], *, short: bool) -> str:
    if not short and old not in seen and _VALID_ID.fullmatch(old):
        return old
    digest = hashlib.sha256(f"{place} {old}".encode()).hexdigest()
    return digest[:9] if short else f"call_{digest[:16]}"


def _without_empty(messages: list[Message], *, images: bool) -> list[Message]:
    kept = []
    for message in messages:
        parts = tuple(_visible(part, images=images) for part in message.parts if not _is_empty(part))
        has_body = any(not isinstance(part, ReasoningPart) for part in parts)
        if message.role is Role.TOOL or has_body or message.calls:
            kept.append(replace(message, parts=parts))
    return kept


def _is_empty(part: Part) -> bool:
    return isinstance(part, TextPart) and not part.text


def _visible(part: Part, *, images: bool) -> Part:
    if isinstance(part, ImagePart) and not images:
        return TextPart(NO_IMAGE)
    return part


def _merge_neighbours(messages: list[Message]) -> list[Message]:
    """Join neighbours of one role: strict chat templates want user and assistant to alternate."""
    merged: list[Message] = []
    for message in messages:
        last = merged[-1] if merged else None
        if last is None or last.role is not message.role or message.role is Role.TOOL or last.calls:
            merged.append(message)
            continue
        gap = (TextPart("\n\n"),) if last.text and message.text else ()
        merged[-1] = replace(last, parts=(*last.parts, *gap, *message.parts), calls=message.calls)
    return merged


def own_reasoning(message: Message, wire: str, model: str) -> list[ReasoningPart]:
    """Return the thoughts of a message that came from this wire and model, and so may be sent back to it."""
    return [
        part
        for part in message.parts
        if isinstance(part, ReasoningPart) and part.wire == wire and part.model == model
    ]


def tool_loop_start(messages: list[Message]) -> int:
    """Return the position at which the current tool loop begins, right after the last user message."""
    for position in range(len(messages) - 1, -1, -1):
        if messages[position].role is Role.USER:
            return position + 1
    return 0
