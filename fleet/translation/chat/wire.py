"""The chunks of an OpenAI chat upstream, decoded as loosely as servers write them.

Only fields that all servers agree on have a type. A field that some fill with null, an object or a list is
`Any`, and is checked where it is used. Streamed chunks and whole completions share these shapes (`delta` or
`message`).
"""

from __future__ import annotations

from typing import Any

import msgspec

from fleet.translation.events import ReasoningDelta, ReasoningSignature, RedactedReasoning, TextDelta, Thought


class Delta(msgspec.Struct):
    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    reasoning_details: Any = None
    tool_calls: Any = None
    refusal: Any = None


class Choice(msgspec.Struct):
    index: Any = 0
    delta: Delta | None = None
    message: Delta | None = None
    finish_reason: Any = None
    stop_reason: Any = None  # vLLM: the stop string that matched
    matched_stop: Any = None  # SGLang: the same
    usage: Any = None
    error: Any = None


class ChatChunk(msgspec.Struct):
    id: Any = ""
    choices: list[Choice] | None = None
    usage: Any = None
    error: Any = None


_chunks = msgspec.json.Decoder(ChatChunk)


def decode_chunk(data: bytes) -> ChatChunk:
    """A chunk; bytes that are not UTF-8 become U+FFFD, so that one bad token ends no answer.

    Raises `msgspec.DecodeError`.
    """
    try:
        return _chunks.decode(data)
    except UnicodeDecodeError:
        return _chunks.decode(data.decode(errors="replace"))


def is_plain_text(delta: Delta) -> bool:
    """Whether a delta holds text and nothing else."""
    return bool(
        delta.content
        and type(delta.content) is str
        and not (delta.reasoning_content or delta.reasoning or delta.reasoning_details)
        and not (delta.tool_calls or delta.refusal)
    )


def content_of(content: Any) -> list[TextDelta | ReasoningDelta]:
    """The events of a content field: a string, or parts (Mistral's reasoning is parts of type `thinking`)."""
    match content:
        case str():
            return [TextDelta(content)] if content else []
        case list():
            return [event for part in content if isinstance(part, dict) for event in _part(part)]
        case _:
            return []


def reasoning_of(delta: Delta) -> list[Thought]:
    """The reasoning in a delta, once, though several fields may repeat the same text."""
    details = delta.reasoning_details
    if not (delta.reasoning_content or delta.reasoning or details):
        return []
    spoken = _details(details) if details and isinstance(details, list) else []
    for field in (delta.reasoning_content, delta.reasoning):
        if field and isinstance(field, str):
            rest = (event for event in spoken if not isinstance(event, ReasoningDelta))
            return [ReasoningDelta(field), *rest]
    return spoken


def _part(part: dict[str, Any]) -> list[TextDelta | ReasoningDelta]:
    if part.get("type") == "thinking":
        thoughts = content_of(part.get("thinking"))
        return [ReasoningDelta(thought.text) for thought in thoughts]
    return content_of(part.get("text"))


def _details(details: list[Any]) -> list[Thought]:
    """OpenRouter's `reasoning_details`."""
    events: list[Thought] = []
    for detail in details:
        match detail:
            case {"type": "reasoning.encrypted", "data": str(data)}:
                events.append(RedactedReasoning(data))
            case {"text": str(text)} | {"summary": str(text)} if text:
                events.append(ReasoningDelta(text))
        match detail:
            case {"signature": str(signature)} if signature:
                events.append(ReasoningSignature(signature))
    return events
