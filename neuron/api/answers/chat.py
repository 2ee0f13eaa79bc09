"""The choices of a chat in OpenAI's shape: messages, or deltas of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ext.chunk import enclose
from neuron.api.answers.choice import ChoiceEnd
from neuron.api.answers.chunks import ChunkEncoder
from neuron.api.answers.logprobs import DrawnToken
from neuron.text.events import CallArguments, CallStart, Content, Event, ReasoningContent


class ChatChoiceWriter:
    """One choice of a chat as chunks. `shape` makes the logprobs of tokens; None when they are not wanted."""

    def __init__(
        self, index: int, chunks: ChunkEncoder, shape: Callable[[Sequence[DrawnToken]], Any] | None
    ) -> None:
        self._index = index
        self._chunks = chunks
        self._shape = shape
        self._around = {Content: self._halves("content"), ReasoningContent: self._halves("reasoning_content")}

    def begin(self) -> bytes:
        return self._chunk({"role": "assistant", "content": ""})

    def delta(self, events: Sequence[Event], drawn: Sequence[DrawnToken]) -> bytes:
        """A chunk for each event, the first with the logprobs. Tokens without text yet get an empty one."""
        if self._shape is None and events:
            return b"".join([self._bare(event) for event in events])
        deltas = [_delta(event) for event in events]
        if drawn and not deltas:
            deltas = [{"content": ""}]
        return b"".join([self._chunk(delta, () if i else drawn) for i, delta in enumerate(deltas)])

    def finish(self, ending: ChoiceEnd) -> bytes:
        return self._chunk({}, ending=ending)

    def _halves(self, name: str) -> tuple[bytes, bytes]:
        return self._chunks.around({"index": self._index, "delta": {name: ""}, "finish_reason": None})

    def _bare(self, event: Event) -> bytes:
        """A chunk without logprobs. Those of a text differ in the text alone, so the rest is encoded once."""
        if isinstance(event, Content | ReasoningContent):
            before, after = self._around[type(event)]
            return enclose(before, event.text, after)
        return self._chunk(_delta(event))

    def _chunk(
        self, delta: dict[str, Any], drawn: Sequence[DrawnToken] = (), ending: ChoiceEnd | None = None
    ) -> bytes:
        ends = ending._asdict() if ending else {"finish_reason": None}
        choice = {"index": self._index, "delta": delta, **ends}
        if self._shape:
            choice["logprobs"] = self._shape(drawn) if drawn else None
        return self._chunks.choice(choice)


def chat_choice(index: int, events: Iterable[Event], logprobs: Any, ending: ChoiceEnd) -> dict[str, Any]:
    """One whole choice: the same that a client puts together from the stream's deltas."""
    return {"index": index, "message": _message(events), "logprobs": logprobs, **ending._asdict()}


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
