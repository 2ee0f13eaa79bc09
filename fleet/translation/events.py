# cython: language_level=3, annotation_typing=False
"""A model's answer as neutral events, in no client's dialect.

A reader turns an upstream's bytes into these events, a writer turns them into a client's dialect. A stream is
one answer: it starts, has blocks one after the other (never two at once), and stops. Text and reasoning need
no brackets: adjacent deltas of one kind are one block. A call has a start and an end, and its arguments are a
JSON text in fragments. `Usage` holds totals; the last one counts. `Stop` or `Failure` is the last event.

`Grammar` is that paragraph as a table. An event that it forbids is a bug of the reader, never a client's or
an upstream's fault.
"""

from __future__ import annotations

from enum import Enum
from typing import Literal

import msgspec

from neuron.wire import ApiError

StopReason = Literal["stop", "length", "tool_calls", "content_filter"]


class Usage(msgspec.Struct, frozen=True):
    """Tokens of the whole answer so far; `cached` is part of `prompt`, `reasoning` of `completion`."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    reasoning: int = 0


class MessageStart(msgspec.Struct, frozen=True):
    """The first event. `usage` is set where the upstream reported it before any text."""

    id: str
    usage: Usage | None = None


class TextDelta(msgspec.Struct, frozen=True):
    text: str


class ReasoningDelta(msgspec.Struct, frozen=True):
    text: str


class ReasoningSignature(msgspec.Struct, frozen=True):
    """Ends a block of reasoning with its author's signature: opaque, returned unchanged."""

    signature: str


class RedactedReasoning(msgspec.Struct, frozen=True):
    """A block of reasoning that only its author can read."""

    data: str


Thought = ReasoningDelta | ReasoningSignature | RedactedReasoning


class ToolCallStart(msgspec.Struct, frozen=True):
    id: str
    name: str


class ToolCallArguments(msgspec.Struct, frozen=True):
    """A fragment of a call's JSON arguments; a call without a fragment has no arguments."""

    fragment: str


class ToolCallEnd(msgspec.Struct, frozen=True):
    pass


class Stop(msgspec.Struct, frozen=True):
    """The answer is complete. `sequence` is the stop string that matched, where the upstream names it."""

    reason: StopReason
    sequence: str | None = None


class Failure(msgspec.Struct, frozen=True):
    """The answer broke off."""

    status: int
    code: str
    message: str

    def as_error(self) -> ApiError:
        return ApiError(self.status, self.code, self.message)


Event = (
    MessageStart
    | TextDelta
    | ReasoningDelta
    | ReasoningSignature
    | RedactedReasoning
    | ToolCallStart
    | ToolCallArguments
    | ToolCallEnd
    | Usage
    | Stop
    | Failure
)


class Phase(Enum):
    """The part of the stream that the last event belongs to."""

    BEFORE = "before"
    BETWEEN = "between"  # blocks
    TEXT = "text"
    REASONING = "reasoning"
    CALL = "call"
    OVER = "over"

    __hash__ = object.__hash__  # by identity; an enum's own is Python, for each event


_NEXT_BLOCK: dict[type[Event], Phase] = {
    TextDelta: Phase.TEXT,
    ReasoningDelta: Phase.REASONING,
    RedactedReasoning: Phase.BETWEEN,
    ToolCallStart: Phase.CALL,
    Stop: Phase.OVER,
    Failure: Phase.OVER,
}

LEGAL: dict[Phase, dict[type[Event], Phase]] = {
    Phase.BEFORE: {MessageStart: Phase.BETWEEN, Failure: Phase.OVER},
    Phase.BETWEEN: {**_NEXT_BLOCK, Usage: Phase.BETWEEN},
    Phase.TEXT: {**_NEXT_BLOCK, Usage: Phase.TEXT},
    Phase.REASONING: {**_NEXT_BLOCK, ReasoningSignature: Phase.BETWEEN, Usage: Phase.REASONING},
    Phase.CALL: {
        ToolCallArguments: Phase.CALL,
        ToolCallEnd: Phase.BETWEEN,
        Usage: Phase.CALL,
        Failure: Phase.OVER,
    },
    Phase.OVER: {},
}


class IllegalEvent(Exception):  # noqa: N818 - it names what it was given
    """An event that the grammar forbids at its place: our own mistake."""


class Grammar:
    """The state of a stream."""

    def __init__(self) -> None:
        self.phase = Phase.BEFORE

    def step(self, event: Event) -> Phase:
        """The phase after `event`. Raises `IllegalEvent`."""
        try:
            self.phase = LEGAL[self.phase][type(event)]
        except KeyError:
            message = f"{type(event).__name__} cannot come while the stream is {self.phase.value}"
            raise IllegalEvent(message) from None
        return self.phase
