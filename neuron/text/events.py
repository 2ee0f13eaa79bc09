"""The parts of a generated answer, in the order in which they appear."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Content:
    """Visible text of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningContent:
    """Text of the model's reasoning block."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """A tool call begins; its arguments follow. Calls do not overlap."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """The next piece of a call's arguments, as JSON text."""

    index: int
    text: str


Event = Content | ReasoningContent | CallStart | CallArguments
