from __future__ import annotations

from collections.abc import Sequence

from neuron.text.detokenizer import Detokenizer
from neuron.text.events import CallStart, Content, Event, Reasoning
from neuron.text.reasoning import ReasoningSplitter
from neuron.text.stops import StopStrings
from neuron.text.tools import ToolParser


class AnswerStream:
    """One answer: feed(token) -> events, then finish() -> the rest.

    `is_stopped` turns true when a stop string was found; tokens fed after that are ignored. Stop strings are
    looked for only after `min_tokens`. `reasoning_tokens` counts the tokens of the reasoning block, its
    closing marker included.
    """

    def __init__(
        self,
        detokenizer: Detokenizer,
        splitter: ReasoningSplitter,
        *,
        stops: Sequence[str] = (),
        min_tokens: int = 0,
        tools: ToolParser | None = None,
    ) -> None:
        self._detokenizer = detokenizer
        self._splitter = splitter
        self._stops = StopStrings(stops)
        self._min_tokens = min_tokens
        self._tools = tools
        self.tokens = 0
        self.reasoning_tokens = 0
        self.has_calls = False

    @property
    def is_stopped(self) -> bool:
        return self._stops.hit

    def feed(self, token: int) -> list[Event]:
        if self.is_stopped:
            return []
        self.tokens += 1
        text = self._detokenizer.feed(token)
        if self.tokens > self._min_tokens:
            text = self._stops.feed(text)
        was_inside = self._splitter.is_inside
        events = self._split(text)
        if was_inside or self._splitter.is_inside:
            self.reasoning_tokens += 1
        return events

    def finish(self) -> list[Event]:
        """The answer is over, for whatever reason: everything still held back."""
        text = "" if self.is_stopped else self._stops.feed(self._detokenizer.finish()) + self._stops.finish()
        events = self._split(text)
        for piece in self._splitter.finish():
            events += self._parse(piece)
        if self._tools:
            events += self._seen(self._tools.finish())
        return events

    def _split(self, text: str) -> list[Event]:
        events: list[Event] = []
        for piece in self._splitter.feed(text) if text else ():
            events += self._parse(piece)
        return events

    def _parse(self, piece: Content | Reasoning) -> list[Event]:
        if self._tools is None or isinstance(piece, Reasoning):
            return [piece]
        return self._seen(self._tools.feed(piece.text))

    def _seen(self, events: list[Event]) -> list[Event]:
        self.has_calls = self.has_calls or any(isinstance(event, CallStart) for event in events)
        return events
