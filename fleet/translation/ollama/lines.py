"""Neutral events as Ollama's JSON lines, streamed or as the one object of a whole answer.

    {"message": {…}, "done": false}*  {"message": {…}, "done": true, "done_reason": …, counts and times}

`/api/generate` has `response` and `thinking` in place of `message`. A call is one line, once it is whole. An
answer that broke off ends with `{"error": …}`. Times are those that the gateway saw: the first token ends
`prompt_eval_duration`, and an answer that came whole has all its time in `eval_duration`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec

from fleet.translation.events import (
    Event,
    Failure,
    MessageStart,
    Phase,
    ReasoningDelta,
    Stop,
    StopReason,
    TextDelta,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
    Usage,
)
from fleet.translation.messages.answer import input_of
from fleet.translation.writer import EventWriter
from neuron.wire import ApiError

Json = dict[str, Any]
Clock = Callable[[], float]  # seconds since the epoch

_encode = msgspec.json.encode
_DONE_REASON: dict[StopReason, str] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "stop",
    "content_filter": "content_filter",
}


def error_body(error: ApiError) -> bytes:
    """The body of an error answer, or the line that ends a broken stream; it begins with the field's path."""
    return _encode({"error": f"{error.param}: {error.message}" if error.param else error.message})


def chat_fields(content: str, thinking: str, calls: list[Json]) -> Json:
    """What a line of `/api/chat` says."""
    message: Json = {"role": "assistant", "content": content}
    if thinking:
        message["thinking"] = thinking
    if calls:
        message["tool_calls"] = calls
    return {"message": message}


def generate_fields(content: str, thinking: str, calls: list[Json]) -> Json:
    """What a line of `/api/generate` says."""
    fields: Json = {"response": content}
    if thinking:
        fields["thinking"] = thinking
    if calls:
        fields["tool_calls"] = calls
    return fields


class LinesWriter(EventWriter):
    """Writes the lines of one answer.

    `model` is the name that the client used, `fields` one of the above. `begun_at` is when the request came.
    """

    def __init__(
        self, model: str, fields: Callable[[str, str, list[Json]], Json], clock: Clock, begun_at: float
    ) -> None:
        super().__init__()
        self._model = model
        self._fields = fields
        self._clock = clock
        self._begun_at = begun_at
        self._second, self._date = -1, ""  # the last second written, and how
        self._spoke_at: float | None = None  # when the first token came
        self._usage = Usage()
        self._calls = 0
        self._call: tuple[str, str, list[str]] = "", "", []  # of the open call: id, name, arguments

    def waiting(self) -> bytes:
        """A line that says nothing, for the time before the answer begins."""
        return _encode(self._line("", "", [])) + b"\n"

    def loaded(self) -> bytes:
        """The one object that answers a request without a prompt, once its model is loaded."""
        return _encode(self._line("", "", []) | {"done": True, "done_reason": "load"})

    def whole(self, events: Iterable[Event]) -> bytes:
        """The one object of an answer that is not streamed. Raises `ApiError` where it broke off."""
        content: list[str] = []
        thoughts: list[str] = []
        calls: list[Json] = []
        for event in events:
            self._grammar.step(event)
            match event:
                case TextDelta(text=text):
                    content.append(text)
                case ReasoningDelta(text=text):
                    thoughts.append(text)
                case Failure():
                    raise event.as_error()
                case _ if call := self._note(event):
                    calls.append(call)
                case Stop():
                    line = self._line("".join(content), "".join(thoughts), calls)
                    return _encode(line | self._end(event, None))
        raise AssertionError("the answer has no end")

    def _leave(self, phase: Phase, event: Event) -> None:
        """Close nothing: lines stand alone."""

    def _write(self, event: Event, before: Phase, after: Phase) -> None:
        if self._spoke_at is None and not isinstance(event, MessageStart | Usage):
            self._spoke_at = self._clock()
        match event:
            case TextDelta(text=text):
                self._put(self._line(text, "", []))
            case ReasoningDelta(text=text):
                self._put(self._line("", text, []))
            case Stop():
                self._put(self._line("", "", []) | self._end(event, self._spoke_at))
            case Failure():
                self._out.append(error_body(event.as_error()) + b"\n")
            case _ if call := self._note(event):
                self._put(self._line("", "", [call]))

    def _note(self, event: Event) -> Json | None:
        """Keep what an event says of usage or a call. Returns the call that it completes."""
        match event:
            case MessageStart(usage=Usage() as usage):
                self._usage = usage
            case Usage():
                self._usage = event
            case ToolCallStart(id=ident, name=name):
                self._call = ident, name, []
            case ToolCallArguments(fragment=fragment):
                self._call[2].append(fragment)
            case ToolCallEnd():
                ident, name, fragments = self._call
                function = {"index": self._calls, "name": name, "arguments": input_of("".join(fragments))}
                self._calls += 1
                return {"id": ident, "function": function}
        return None

    def _line(self, content: str, thinking: str, calls: list[Json]) -> Json:
        said = self._fields(content, thinking, calls)
        return {"model": self._model, "created_at": self._now(), **said, "done": False}

    def _now(self) -> str:
        """The time as RFC 3339 has it. Hot: what stands before the fraction is written once a second."""
        now = self._clock()
        if int(now) != self._second:
            self._second = int(now)
            self._date = datetime.fromtimestamp(self._second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._date}.{int(now % 1 * 1e6):06d}Z"

    def _end(self, stop: Stop, spoke_at: float | None) -> Json:
        now = self._clock()
        prompt = {} if spoke_at is None else {"prompt_eval_duration": _nanoseconds(spoke_at - self._begun_at)}
        return {
            "done": True,
            "done_reason": _DONE_REASON[stop.reason],
            "total_duration": _nanoseconds(now - self._begun_at),
            "load_duration": 0,
            "prompt_eval_count": self._usage.prompt,
            **prompt,
            "eval_count": self._usage.completion,
            "eval_duration": _nanoseconds(now - (self._begun_at if spoke_at is None else spoke_at)),
        }

    def _put(self, line: Json) -> None:
        self._out.append(_encode(line) + b"\n")


def _nanoseconds(seconds: float) -> int:
    """At least one: clients divide by it."""
    return max(1, round(seconds * 1e9))
