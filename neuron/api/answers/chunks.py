"""OpenAI's shapes of an answer: one JSON object, or chunks of a stream made from the same events."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from ext.chunk import enclose
from neuron.api.answers.logprobs import Drawn
from neuron.text.events import CallArguments, CallStart, Content, Event, ReasoningContent
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


class ChunkEncoder:
    """Server-sent chunks of one streamed answer. What they have in common is encoded once.

    A choice is all that differs between the chat's chunks and those of bare completions.
    """

    def __init__(self, answer_id: str, model: str, kind: str, *, include_usage: bool) -> None:
        head = {"id": answer_id, "object": kind, "created": int(time.time()), "model": model}
        common = b"data: " + _encode(head)[:-1]
        self._before_choice = common + b',"choices":['
        self._before_usage = common + b',"choices":[],"usage":'
        # with usage asked for, every chunk but the last says null
        self._end = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"

    def choice(self, choice: dict[str, Any]) -> bytes:
        return self._before_choice + _encode(choice) + self._end

    def around(self, choice: dict[str, Any]) -> tuple[bytes, bytes]:
        """Its bytes before and after the text that goes into the last string of `choice`, which is empty."""
        before, _, after = self.choice(choice).rpartition(b'""')
        return before + b'"', b'"' + after

    def usage(self, used: Usage) -> bytes:
        return self._before_usage + _encode(used) + b"}\n\n"


class ChatChoiceWriter:
    """One choice of a chat, as chunks. `shape` makes logprobs of what was drawn; None: none are wanted."""

    def __init__(
        self, index: int, chunks: ChunkEncoder, shape: Callable[[Sequence[Drawn]], Any] | None
    ) -> None:
        self._index = index
        self._chunks = chunks
        self._shape = shape
        self._around = {Content: self._halves("content"), ReasoningContent: self._halves("reasoning_content")}

    def begin(self) -> bytes:
        return self._chunk({"role": "assistant", "content": ""})

    def piece(self, events: Sequence[Event], drawn: Sequence[Drawn]) -> bytes:
        """The logprobs go with the first chunk; tokens that show nothing yet have an empty one."""
        if self._shape is None and events:
            return b"".join([self._bare(event) for event in events])
        deltas = [_delta(event) for event in events] or ([{"content": ""}] if drawn else [])
        return b"".join([self._chunk(delta, drawn if i == 0 else ()) for i, delta in enumerate(deltas)])

    def finish(self, reason: str) -> bytes:
        return self._chunk({}, finish_reason=reason)

    def _halves(self, name: str) -> tuple[bytes, bytes]:
        return self._chunks.around({"index": self._index, "delta": {name: ""}, "finish_reason": None})

    def _bare(self, event: Event) -> bytes:
        """Without logprobs the chunks of a text differ in nothing but it."""
        if isinstance(event, Content | ReasoningContent):
            before, after = self._around[type(event)]
            return enclose(before, event.text, after)
        return self._chunk(_delta(event))

    def _chunk(
        self, delta: dict[str, Any], drawn: Sequence[Drawn] = (), finish_reason: str | None = None
    ) -> bytes:
        choice = {"index": self._index, "delta": delta, "finish_reason": finish_reason}
        if self._shape:
            choice["logprobs"] = self._shape(drawn) if drawn else None
        return self._chunks.choice(choice)


def error_event(error: ApiError) -> bytes:
    """After the head is sent, an error is an event; the stream ends behind it without [DONE]."""
    return b"data: " + _encode(error.envelope()) + b"\n\n"


def _delta(event: Event) -> dict[str, Any]:
    match event:
        case Content(text):
            return {"content": text}
        case ReasoningContent(text):
            return {"reasoning_content": text}
        case CallStart(index, call_id, name):
            function = {"name": name, "arguments": ""}
            return {"tool_calls": [{"index": index, "id": call_id, "type": "function", "function": function}]}
        case CallArguments(index, text):
            return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}


def whole(answer_id: str, model: str, kind: str, *, choices: Sequence[dict[str, Any]], used: Usage) -> bytes:
    """An answer as one JSON object."""
    head = {"id": answer_id, "object": kind, "created": int(time.time()), "model": model}
    return _encode(head | {"choices": choices, "usage": used})


def chat_choice(index: int, events: Iterable[Event], logprobs: Any, finish_reason: str) -> dict[str, Any]:
    """One choice of a chat: what a client gets that puts the stream's deltas together."""
    message = _message(events)
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": finish_reason}


def _message(events: Iterable[Event]) -> dict[str, Any]:
    content: list[str] = []
    reasoning: list[str] = []
    calls: list[dict[str, Any]] = []
    for event in events:
        match event:
            case Content(text):
                content.append(text)
            case ReasoningContent(text):
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
