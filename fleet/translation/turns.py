# cython: language_level=3, annotation_typing=False
"""The order of turns in chat, from messages in the order of a client's items.

Dialects let an assistant's turn come in pieces, and let anything stand between a call and its output. Chat
servers are strict: an assistant's turn is one message, and the outputs of its calls follow at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

Json = dict[str, Any]


def in_chat_order(messages: list[Json]) -> list[Json]:
    """The messages with each assistant's turn as one, and the outputs of its calls right after it.

    An output belongs to the last message before it that made a call of its `tool_call_id`; there must be one.
    Outputs of one turn keep their order. What stood between a call and its output follows the output.
    """
    return messages if _is_plain(messages) else _joined(_answered(_joined(messages)))


def _is_plain(messages: Sequence[Json]) -> bool:
    """Whether no call was answered, and no turn of the assistant came in pieces."""
    roles = [message["role"] for message in messages]
    return "tool" not in roles and ("assistant", "assistant") not in pairwise(roles)


def _answered(messages: Iterable[Json]) -> Iterable[Json]:
    outputs: dict[str, list[Json]] = {}  # of the last message that called, by id
    ordered: list[list[Json]] = []
    for message in messages:
        if message["role"] == "tool":
            outputs[message["tool_call_id"]].append(message)
            continue
        group = [message]
        ordered.append(group)
        outputs |= {call["id"]: group for call in message.get("tool_calls", ())}
    return [message for group in ordered for message in group]


def _joined(messages: Iterable[Json]) -> list[Json]:
    turns: list[list[Json]] = []
    for message in messages:
        if message["role"] == "assistant" and turns and turns[-1][-1]["role"] == "assistant":
            turns[-1].append(message)
        else:
            turns.append([message])
    return [turn[0] if len(turn) == 1 else _one(turn) for turn in turns]


def _one(pieces: Sequence[Json]) -> Json:
    """One message of an assistant's pieces: their thoughts, their texts, their calls."""
    thoughts = [piece["reasoning_content"] for piece in pieces if "reasoning_content" in piece]
    lists = {
        name: [entry for piece in pieces for entry in piece.get(name, ())]
        for name in ("reasoning_details", "tool_calls")
    }
    contents = [piece["content"] for piece in pieces if piece["content"]]
    message: Json = {"role": "assistant", "content": _content(contents, bool(lists["tool_calls"]))}
    if thoughts:
        message["reasoning_content"] = "\n".join(thoughts)
    return message | {name: entries for name, entries in lists.items() if entries}


def _content(contents: Sequence[str | list[Json]], has_calls: bool) -> str | list[Json] | None:
    match contents:
        case []:
            return None if has_calls else ""
        case [content]:
            return content
        case _:
            return [part for content in contents for part in _parts(content)]


def _parts(content: str | list[Json]) -> list[Json]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content
