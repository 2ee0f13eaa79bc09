# cython: language_level=3, annotation_typing=False
"""The state of one answer while its chunks arrive, and how it ends.

The end is decided at `[DONE]`, or where the bytes end, because usage may follow a finish reason:

    the upstream sent                       the answer ends with
    a finish reason                         Stop; `tool_calls` where calls were made and none was cut
    `[DONE]` alone, no call unfinished      the same
    neither, but calls, none unfinished     Stop(tool_calls)
    anything else                           Failure: the stream was cut
    an error, anywhere                      Failure, at once
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from fleet.translation.chat.calls import ToolCalls
from fleet.translation.chat.failures import CUT, MALFORMED, NOT_AN_ANSWER, failure_in, failure_of
from fleet.translation.chat.inline_reasoning import InlineReasoning
from fleet.translation.chat.usage import UsageTotals
from fleet.translation.chat.wire import (
    ChatChunk,
    Choice,
    Delta,
    content_of,
    decode_chunk,
    is_plain_text,
    reasoning_of,
)
from fleet.translation.events import (
    Event,
    Failure,
    MessageStart,
    ReasoningDelta,
    ReasoningSignature,
    Stop,
    StopReason,
    TextDelta,
    Thought,
)
from fleet.translation.sse import SseEvent, is_comment

_CUT: dict[str, StopReason] = {
    "length": "length",
    "max_tokens": "length",
    "content_filter": "content_filter",
    "refusal": "content_filter",
}


class Answer:
    """One answer: `read` each event of a stream, or the `whole` body; then `end` or `fail`."""

    def __init__(self, request_id: str) -> None:
        self._id = request_id
        self._calls = ToolCalls()
        self._inline = InlineReasoning()
        self._late: list[Event] = []  # events that arrived while a call was unfinished
        self._totals = UsageTotals()
        self._finish = ""
        self._sequence: str | None = None
        self._refused = False
        self._thinking = False  # inside a block of reasoning
        self._started = False
        self._heard = False  # a choice arrived
        self._done = False  # `[DONE]` arrived
        self.over = False  # Stop or Failure was returned
        self.said = ""  # the last event's text, if it was text and nothing else

    def read(self, item: SseEvent) -> list[Event]:
        if self.over:
            return []
        self.said = ""
        data = item.data.strip()
        if data == b"[DONE]":
            self._done = True
            return self.end()
        if item.name == b"error":
            return self.fail(failure_in(data) or failure_of(data.decode(errors="replace")))
        return self._chunk(data) if data else []

    def whole(self, body: bytes) -> list[Event]:
        events = self._chunk(body)
        self._done = True
        events += self.end()
        return events

    def fail(self, failure: Failure) -> list[Event]:
        if self.over:
            return []
        self.over = True
        return [failure]

    def end(self) -> list[Event]:
        if self.over:
            return []
        if not self._heard:
            return self.fail(NOT_AN_ANSWER)
        complete = self._finish or (self._calls.runnable and (self._done or self._calls.any))
        events: list[Event] = [*self._inline.settle()]
        if not complete:
            return events + self.fail(CUT)
        self.over = True
        events += self._calls.finish()
        events += self._late
        if usage := self._totals.usage:
            events.append(usage)
        reason = self._reason()
        events.append(Stop(reason, self._sequence if reason == "stop" else None))
        return events

    def _chunk(self, data: bytes) -> list[Event]:
        try:
            chunk = decode_chunk(data)
        except (msgspec.DecodeError, RecursionError):
            return [] if is_comment(data) else self.fail(failure_in(data) or MALFORMED)
        if chunk.error:
            return self.fail(failure_of(chunk.error))
        if chunk.choices is None and chunk.usage is None:
            failure = failure_in(data)
            return self.fail(failure) if failure else []
        self._totals.merge(chunk.usage)
        events: list[Event] = [] if self._started else [self._start(chunk.id)]
        for choice in chunk.choices or ():
            if not choice.index and not self.over:  # the gateway asks for one choice
                events += self._choice(choice)
        self.said = _only_text(chunk, events) if len(events) == 1 and self._inline.settled else ""
        return events

    def _start(self, upstream_id: Any) -> MessageStart:
        self._started = True
        if isinstance(upstream_id, str) and upstream_id:
            self._id = upstream_id
        self._calls.prefix = self._id.removeprefix("chatcmpl-")
        return MessageStart(self._id, self._totals.usage)

    def _choice(self, choice: Choice) -> list[Event]:
        self._heard = True
        if choice.error or choice.finish_reason == "error":
            return self.fail(failure_of(choice.error or ""))
        if choice.usage:
            self._totals.merge(choice.usage)
        events: list[Event] = []
        if choice.delta is not None:
            self._delta(choice.delta, events)
        elif choice.message is not None:
            self._message(choice.message, events)
        if choice.finish_reason and isinstance(choice.finish_reason, str):
            self._finish = choice.finish_reason
            matched = choice.stop_reason if isinstance(choice.stop_reason, str) else choice.matched_stop
            self._sequence = matched if isinstance(matched, str) else None
        return events

    def _message(self, message: Delta, events: list[Event]) -> None:
        """A whole message: each entry of `tool_calls` is a call of its own, whatever its index."""
        if isinstance(message.tool_calls, list):
            for index, entry in enumerate(message.tool_calls):
                if isinstance(entry, dict):
                    entry["index"] = index
        self._delta(message, events)

    def _delta(self, delta: Delta, events: list[Event]) -> None:
        if is_plain_text(delta) and self._inline.passes(delta.content):  # the hot path
            self._thinking = False
            self._speak([TextDelta(delta.content)], events)
            return
        if thoughts := reasoning_of(delta):
            self._speak(self._inline.settle(), events)
            self._speak(self._in_blocks(thoughts), events)
        if delta.content or delta.tool_calls:
            self._thinking = False
        if delta.content:
            for event in content_of(delta.content):
                spoken = self._inline.feed(event.text) if isinstance(event, TextDelta) else [event]
                self._speak(spoken, events)
        if delta.refusal and isinstance(delta.refusal, str):
            self._refused = True
            self._speak([TextDelta(delta.refusal)], events)
        if delta.tool_calls and isinstance(delta.tool_calls, list):
            self._speak(self._inline.settle(), events)
            events += self._calls.feed(delta.tool_calls)

    def _in_blocks(self, thoughts: list[Thought]) -> list[Thought]:
        """The thoughts in blocks: a signature ends one; without an open block it gets an empty one."""
        events: list[Thought] = []
        for thought in thoughts:
            if isinstance(thought, ReasoningSignature) and not self._thinking:
                events.append(ReasoningDelta(""))
            events.append(thought)
            self._thinking = isinstance(thought, ReasoningDelta)
        return events

    def _speak(self, spoken: Sequence[Event], events: list[Event]) -> None:
        """Append text or reasoning; while a call is unfinished, hold it until after the calls."""
        if not spoken:
            return
        if self._calls.unfinished and self._calls.whole:
            events += self._calls.finish()
        (self._late if self._calls.unfinished else events).extend(spoken)

    def _reason(self) -> StopReason:
        if self._refused:
            return "content_filter"
        return _CUT.get(self._finish) or ("tool_calls" if self._calls.any else "stop")


def _only_text(chunk: ChatChunk, events: Sequence[Event]) -> str:
    """The text of a chunk that carries nothing else; else empty."""
    match chunk, events:
        case ChatChunk(usage=None, choices=[Choice(usage=None, finish_reason=None)]), [TextDelta(text=text)]:
            return text
    return ""
