# cython: language_level=3, annotation_typing=False
"""Neutral events as one Anthropic message, and the parts that the stream shares with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from fleet.translation.events import (
    Event,
    Failure,
    Grammar,
    MessageStart,
    ReasoningDelta,
    ReasoningSignature,
    RedactedReasoning,
    Stop,
    StopReason,
    TextDelta,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
    Usage,
)
from fleet.translation.messages.signature import UNSIGNED

Json = dict[str, Any]

INVALID_JSON = "INVALID_JSON"  # Anthropic's key for arguments that are no JSON object

_STOP_REASON: dict[StopReason, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
UNSTOPPED: Json = {"stop_reason": None, "stop_sequence": None, "stop_details": None}


def build_message(events: Iterable[Event], model: str) -> Json:
    """The message that a client assembles from the stream of the same events.

    Arguments that are no JSON object (cut at `max_tokens`, or a model's mistake) stand verbatim under
    `INVALID_JSON`. Raises `ApiError` where the answer broke off.
    """
    answer = _Answer()
    for event in events:
        answer.add(event)
    return answer.message(model)


def without_answer(events: Iterable[Event]) -> list[Event]:
    """The events of an answer of no tokens, which `max_tokens: 0` asks for, from those of any answer."""
    kept: list[Event] = []
    for event in events:
        match event:
            case Usage():
                kept.append(msgspec.structs.replace(event, completion=0, reasoning=0))
            case Stop():
                kept.append(Stop("length"))
            case MessageStart() | Failure():
                kept.append(event)
    return kept


class _Answer:
    def __init__(self) -> None:
        self._grammar = Grammar()
        self._id = ""
        self._usage = Usage()
        self._fragments: list[str] = []
        self._content: list[Json] = []
        self._stop = UNSTOPPED

    def message(self, model: str) -> Json:
        return message_of(self._id, model, self._usage, self._content, self._stop)

    def add(self, event: Event) -> None:
        before = self._grammar.phase
        begins = self._grammar.step(event) is not before
        match event:
            case TextDelta(text=text):
                self._speak(text_block, "text", text, begins)
            case ReasoningDelta(text=text):
                self._speak(thinking_block, "thinking", text, begins)
            case MessageStart(id=id_, usage=usage):
                self._id, self._usage = id_, usage or self._usage
            case Usage():
                self._usage = event
            case Stop():
                self._stop = stop_fields(event)
            case Failure():
                raise event.as_error()
            case _:
                self._add_block(event)

    def _add_block(self, event: Event) -> None:
        match event:
            case ReasoningSignature(signature=signature):
                self._content[-1]["signature"] = signature
            case RedactedReasoning(data=data):
                self._content.append(redacted_block(data))
            case ToolCallStart(id=id_, name=name):
                self._content.append(tool_block(id_, name))
            case ToolCallArguments(fragment=fragment):
                self._fragments.append(fragment)
            case ToolCallEnd():
                self._content[-1]["input"] = input_of("".join(self._fragments))
                self._fragments.clear()

    def _speak(self, make: Callable[[], Json], field: str, text: str, begins: bool) -> None:
        if begins:
            self._content.append(make())
        self._content[-1][field] += text


def message_of(
    id_: str, model: str, usage: Usage, content: Sequence[Json] = (), stop: Json = UNSTOPPED
) -> Json:
    """A message; by default one that has just begun."""
    return {
        "id": message_id(id_),
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        **stop,
        "usage": usage_fields(usage),
    }


def message_id(upstream_id: str) -> str:
    return "msg_" + upstream_id.removeprefix("chatcmpl-").removeprefix("msg_")


def text_block() -> Json:
    return {"type": "text", "text": ""}


def thinking_block() -> Json:
    return {"type": "thinking", "thinking": "", "signature": UNSIGNED}


def redacted_block(data: str) -> Json:
    return {"type": "redacted_thinking", "data": data}


def tool_block(id_: str, name: str) -> Json:
    return {"type": "tool_use", "id": id_, "name": name, "input": {}}


def usage_fields(usage: Usage) -> Json:
    """The usage in Anthropic's three parts of a prompt: read from the cache, written to it, neither."""
    return {
        "input_tokens": max(usage.prompt - usage.cached, 0),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": usage.completion,
    }


def stop_fields(stop: Stop) -> Json:
    reason = _STOP_REASON[stop.reason] if stop.sequence is None else "stop_sequence"
    return {"stop_reason": reason, "stop_sequence": stop.sequence, "stop_details": None}


def input_of(arguments: str) -> Any:
    """The arguments as a JSON object, its numbers as the model wrote them."""
    if not arguments.strip():
        return {}
    try:
        whole = isinstance(msgspec.json.decode(arguments), dict)
    except (msgspec.DecodeError, RecursionError):
        whole = False
    return msgspec.Raw(arguments.encode()) if whole else {INVALID_JSON: arguments}
