"""How models write tool calls: one `ToolFormat` per notation, chosen by what the chat template says.

A format's parser is a state machine, feed(text) -> events. It never loses a character that means something:
what does not become a call comes out as text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from neuron.text.events import Event
from neuron.text.hermes import HermesFormat

NewId = Callable[[], str]


class ToolParser(Protocol):
    def feed(self, text: str) -> list[Event]: ...

    def finish(self) -> list[Event]:
        """The output is over: what is still held, as a call if it is one, else as text."""
        ...


class ToolFormat(Protocol):
    name: str
    markers: Sequence[str]  # tokens that must stay visible to the parser

    def fits(self, template: str) -> bool:
        """Whether a model with this chat template writes its calls in this notation."""
        ...

    def parser(self, new_id: NewId) -> ToolParser: ...


FORMATS: tuple[ToolFormat, ...] = (HermesFormat(),)


def choose_format(template: str) -> ToolFormat | None:
    return next((known for known in FORMATS if known.fits(template)), None)
