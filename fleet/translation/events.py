"""What a model says while it answers, in no client's dialect.

A reader makes these events of what an upstream sends, a writer makes a client's dialect of them. A stream
is one answer: it starts, says blocks one after the other (never two at once), stops. Text and reasoning
need no brackets: neighbouring deltas of one kind are one block. A call is bracketed by start and end, its
arguments are a JSON text in fragments. `Usage` holds totals, the last one counts. After `Stop` or
`Failure` nothing follows.

`Grammar` is that paragraph as a table. An event that it does not allow is a bug of the reader, never a
client's or an upstream's fault.
"""

from __future__ import annotations

from enum import Enum
from typing import Literal

import msgspec

from neuron.wire import ApiError

StopReason = Literal["stop", "length", "tool_calls", "content_filter"]


class Usage(msgspec.Struct, frozen=True):
    """Tokens of the whole answer up to now; `cached` are part of `prompt`, `reasoning` of `completion`."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    reasoning: int = 0


class MessageStart(msgspec.Struct, frozen=True):
    """First event. `usage` where the upstream gave one before any text."""

    id: str
    usage: Usage | None = None


class TextDelta(msgspec.Struct, frozen=True):
    text: str


class ReasoningDelta(msgspec.Struct, frozen=True):
    text: str


class ReasoningSignature(msgspec.Struct, frozen=True):
    """Ends a block of reasoning with its author's proof; opaque, handed back as it came."""

    signature: str


class RedactedReasoning(msgspec.Struct, frozen=True):
    """A whole block of reasoning that only its author can read."""

    data: str


Thought = ReasoningDelta | ReasoningSignature | RedactedReasoning


class ToolCallStart(msgspec.Struct, frozen=True):
    id: str
    name: str


class ToolCallArguments(msgspec.Struct, frozen=True):
    """A fragment of the JSON text; a call without any has no arguments."""

    fragment: str


class ToolCallEnd(msgspec.Struct, frozen=True):
    pass


class Stop(msgspec.Struct, frozen=True):
    """A complete answer. `sequence` is the stop string that matched, where the upstream names it."""

    reason: StopReason
    sequence: str | None = None


class Failure(msgspec.Struct, frozen=True):
    """The answer broke off: what there is of it is all there will be."""

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
    """What the stream is in the middle of."""

    BEFORE = "before"
    BETWEEN = "between"  # blocks
    TEXT = "text"
    REASONING = "reasoning"
    CALL = "call"
    OVER = "over"


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
    """An event at a place where the grammar has none: our own mistake."""


class Grammar:
    """Where a stream is. `step` says the phase that an event leads to."""

    __slots__ = ("phase",)

    def __init__(self) -> None:
        self.phase = Phase.BEFORE

    def step(self, event: Event) -> Phase:
        try:
            self.phase = LEGAL[self.phase][type(event)]
        except KeyError:
            message = f"{type(event).__name__} cannot come while the stream is {self.phase.value}"
            raise IllegalEvent(message) from None
        return self.phase
