"""OpenAI's shapes of an answer: one JSON object, or chunks of a stream made from the same events."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import msgspec

from neuron.text.events import CallArguments, CallStart, Content, Event, Reasoning
from neuron.wire import ApiError

DONE = b"data: [DONE]\n\n"
KEEPALIVE = b": keep-alive\n\n"

_encode = msgspec.json.encode


class Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int]
    completion_tokens_details: dict[str, int]


def usage(*, prompt: int, completion: int, cached: int, reasoning: int) -> Usage:
    return Usage(
        prompt, completion, prompt + completion, {"cached_tokens": cached}, {"reasoning_tokens": reasoning}
    )


class Chunks:
    """Server-sent chunks of one streamed completion. What they have in common is encoded once."""

    def __init__(self, completion_id: str, model: str, *, include_usage: bool) -> None:
        head = {
            "id": completion_id,
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
        }
        common = b"data: " + _encode(head)[:-1]
        self._before_delta = common + b',"choices":[{"index":0,"delta":'
        self._before_usage = common + b',"choices":[],"usage":'
        # with usage asked for, every chunk but the last says null
        self._end = b',"usage":null}\n\n' if include_usage else b"}\n\n"

    def role(self) -> bytes:
        return self._chunk({"role": "assistant", "content": ""})

    def events(self, events: Iterable[Event]) -> bytes:
        return b"".join([self._chunk(_delta(event)) for event in events])

    def finish(self, reason: str) -> bytes:
        return self._chunk({}, reason)

    def usage(self, used: Usage) -> bytes:
        return self._before_usage + _encode(used) + b"}\n\n"

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        reason = b"null" if finish_reason is None else _encode(finish_reason)
        return self._before_delta + _encode(delta) + b',"finish_reason":' + reason + b"}]" + self._end


def error_event(error: ApiError) -> bytes:
    """After the head is sent, an error is an event; the stream ends behind it without [DONE]."""
    return b"data: " + _encode(error.envelope()) + b"\n\n"


def _delta(event: Event) -> dict[str, Any]:
    match event:
        case Content(text):
            return {"content": text}
        case Reasoning(text):
            return {"reasoning_content": text}
        case CallStart(index, call_id, name):
            function = {"name": name, "arguments": ""}
            return {"tool_calls": [{"index": index, "id": call_id, "type": "function", "function": function}]}
        case CallArguments(index, text):
            return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}


def completion(
    completion_id: str, model: str, events: Iterable[Event], *, finish_reason: str, used: Usage
) -> bytes:
    """The answer as one JSON object: what a client gets that puts the stream's deltas together."""
    choice = {"index": 0, "message": _message(events), "logprobs": None, "finish_reason": finish_reason}
    return _encode(
        {
            "id": completion_id,
            "object": "chat.completion",
            "created": int(time.time()),
            "model": model,
            "choices": [choice],
            "usage": used,
        }
    )


def _message(events: Iterable[Event]) -> dict[str, Any]:
    content: list[str] = []
    reasoning: list[str] = []
    calls: list[dict[str, Any]] = []
    for event in events:
        match event:
            case Content(text):
                content.append(text)
            case Reasoning(text):
                reasoning.append(text)
            case CallStart(_, call_id, name):
                calls.append({"id": call_id, "type": "function", "function": {"name": name, "arguments": ""}})
            case CallArguments(index, text):
                calls[index]["function"]["arguments"] += text
    message: dict[str, Any] = {"role": "assistant", "content": "".join(content)}
    if reasoning:
        message["reasoning_content"] = "".join(reasoning)
    if calls:
        message |= {"content": message["content"] or None, "tool_calls": calls}
    return message
